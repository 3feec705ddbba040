"""The demonstration: the model goes on with a text, densely and under elimination, and what a full run does besides."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from ghostkv.report.document import Block, Chapter, Column, Prose, Table, figures
from ghostkv.report.numbers import counted, listed, percent
from ghostkv.report.results import Results


def build(results: Results) -> Sequence[Block]:
    """Both continuations side by side, then how a full run differs."""
    return [Prose(_reading(results)), _beside(results), Prose(_full_run(results))]


def _rows(results: Results) -> tuple[dict, dict]:
    dense, ghost = results.table("demo.writing").iter_rows(named=True)
    return dense, ghost


def _reading(results: Results) -> str:
    _, ghost = _rows(results)
    same = (
        "both wrote the same tokens throughout"
        if ghost["same"] == ghost["tokens"]
        else f"the first {ghost['same']} of {ghost['tokens']} tokens are the same; where one near-tie falls otherwise, "
        "all that follows may differ"
    )
    return (
        f"The model goes on with a held-out text (domain {ghost['domain']}), choosing the most probable token each time: "
        "once reading its whole KV cache, once under elimination in every layer, where a step reads "
        f"{percent(ghost['bytes_ratio_gqa'])} of those bytes, records included. Here {same}."
    )


def _beside(results: Results) -> Table:
    dense, ghost = _rows(results)
    read = f"Under elimination, {percent(ghost['bytes_ratio_gqa'], 0)} of the bytes"
    data = pl.DataFrame(
        {"prompt": ["…" + dense["prompt"]], "dense": [dense["output"]], "ghost": [ghost["output"]]}
    )
    return Table(
        "writing",
        f"The same {ghost['tokens']} steps, written greedily by the same model after the same context. Neither is the "
        "text's own continuation.",
        data.with_columns(pl.all().str.replace_all(r"\s+", " ")),
        {"prompt": Column("The text so far"), "dense": Column("Dense"), "ghost": Column(read)},
    )


def _full_run(results: Results) -> str:
    full, own = results.job.full, results.config
    domains = [domain.replace("_", " ") for domain in full["domains"]]
    codecs = len(own["sketch"]["codecs"])
    return (
        f"**This is a first look.** It read {own['capture']['tokens']:,} tokens of "
        f"{counted(len(own['texts']['domains']), 'domain')}, and swept {counted(codecs, 'codec')} and the exact scores in "
        f"{counted(len(results.job.layers), 'layer')}. `make frontier` reads {full['tokens']:,} tokens of "
        f"{counted(len(domains), 'domain')} ({listed(domains)}), sweeps every layer, and compares "
        f"{full['codecs']} codecs. `make results` adds what can be proved, other methods at the same bytes, and "
        "the model's own loss under elimination."
    )


CHAPTER = Chapter(
    "demo",
    "The model writes under elimination",
    build,
    needs=("demo.writing",),
    headline=figures(
        "demo.writing",
        "self WHERE policy <> 'dense'",
        {
            "demo.bytes_ratio_gqa": (
                "bytes read / bytes of full fp16 K and V, GQA-true",
                "avg(bytes_ratio_gqa)",
            ),
            "demo.same_share": ("share of tokens before the first that differs", "avg(same * 1.0 / tokens)"),
        },
        "sum(tokens)",
    ),
)
