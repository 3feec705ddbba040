"""The numbers that a reader takes away, each with its worst case beside it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import polars as pl

from ghostkv.report.document import Column, Table
from ghostkv.report.numbers import percent, tiny
from ghostkv.report.results import Results
from ghostkv.report.sections.certificates.figures import pooled_heads
from ghostkv.report.sections.quality.figures import role
from ghostkv.report.summaries import BYTES_GQA, ELIMINATION, head_name, operating_point, promises, worst
from ghostkv.stages.certificates.tables import held

CERTIFICATES, POSITIONS = "certificates.certificates", "quality.positions"
_SHOWN = 4


def key_numbers(results: Results) -> Table:
    """Four numbers: what is proved, what holds on average, and what the model itself loses."""
    rows = [*_certified(results), *_in_the_loop(results), *_calibrated(results)][:_SHOWN]
    tables = ("frontier.layer_head", CERTIFICATES, "quality.summary", POSITIONS)
    return Table(
        "key_numbers",
        "Four numbers to take away, each with its worst case. Bytes are all that a step reads, records included, over the full "
        "fp16 K and V, for heads that share a KV head united.",
        pl.DataFrame(rows, infer_schema_length=None),
        {
            "what": Column("What"),
            "mean": Column("Mean", "figure"),
            "worst": Column("Worst", "figure"),
            "where": Column("which is"),
        },
        sources=[name for name in tables if results.has(name)],
    )


def _certified(results: Results) -> Iterator[dict[str, Any]]:
    """Bytes under both certificates."""
    if not results.has(CERTIFICATES):
        return
    frame, delta = results.table(CERTIFICATES), max(results.config["certificates"]["deltas"])
    kept = f"none of the {results.frontier['top_k']} keys of largest score is lost"
    for promise, rows in (
        (kept, held(frame, "nested", "topk")),
        (
            f"at most {percent(delta, 0)} of the softmax mass is lost",
            held(frame, "nested", "mass", delta, "group"),
        ),
    ):
        heads = pooled_heads(rows)
        most = worst(heads, BYTES_GQA)
        yield {
            "what": f"Proved for every query: {promise}; bytes read",
            "mean": percent(heads[BYTES_GQA.name].mean()),
            "worst": percent(most[BYTES_GQA.name]),
            "where": head_name(most),
        }


def _in_the_loop(results: Results) -> Iterator[dict[str, Any]]:
    """What the model itself loses at the bytes that the config allows."""
    row = role(results, "budget") if results.has("quality.summary") else {}
    if not row:
        return
    rows = results.table(POSITIONS).filter(pl.col("policy") == row["policy"])
    most = rows.sort("kl", descending=True).row(0, named=True)
    yield {
        "what": f"The model itself, reading {percent(row['bytes_ratio_gqa'])} of the bytes: KL of its next token, nats",
        "mean": tiny(row["kl"]),
        "worst": tiny(most["kl"]),
        "where": f"{most['domain']}, position {most['position']:,}",
    }


def _calibrated(results: Results) -> Iterator[dict[str, Any]]:
    """What is never read where thresholds are calibrated for a mean loss, and what is lost of that kind."""
    for promise in promises(results):
        heads = operating_point(results, promise)
        for metric, of in (
            (ELIMINATION, "cold keys never read"),
            (promise.achieved, f"measured {promise.risk}"),
        ):
            most = worst(heads, metric)
            yield {
                "what": f"Calibrated for {promise}: {of}",
                "mean": percent(heads[metric.name].cast(pl.Float64).mean()),
                "worst": percent(most[metric.name]),
                "where": head_name(most),
            }
