"""Stage `quality`: what the model itself says when it decodes under elimination."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from ghostkv.report.document import Block, Chapter, Column, HeadlineFigure, Prose, Table, figures
from ghostkv.report.expressions import in_words
from ghostkv.report.numbers import factor, percent, ratio, tiny
from ghostkv.report.results import Results
from ghostkv.report.sections.quality.dense import DENSE, dense
from ghostkv.report.sections.quality.figures import (
    ablation_figure,
    best_rival,
    family_name,
    overall,
    positions_figure,
    role,
)

_WORST = 12


def build(results: Results) -> Sequence[Block]:
    """Quality per byte, positions and domains, where it breaks, and the texts themselves."""
    blocks: list[Block] = [
        Prose(_reading(results)),
        _policies(results),
        dense(results),
    ]
    equal = _equal(results)
    if equal.data.height:
        blocks.append(equal)
    blocks += [positions_figure(results), _domains(results)]
    if results.table("quality.ablation").height:
        blocks.append(ablation_figure(results))
    blocks.append(_worst(results))
    if results.table("quality.generations").height:
        blocks.append(_generations(results))
    return blocks


def _reading(results: Results) -> str:
    off, mass, ours = (role(results, name) for name in ("identity", "mass", "budget"))
    held = best_rival(results)
    rival = family_name(held["against"]) if held else "any rival"
    span = f"{factor(held.get('kl_ratio'))} below {rival}, the strongest rival, at equal bytes"
    if held.get("kl_ratio_low") is not None:
        span += f" (95 % interval {factor(held['kl_ratio_low'])} to {factor(held['kl_ratio_high'])})"
    return (
        "The context is read densely; then every token is decoded with the policy's own choice of keys in all layers, errors of "
        "earlier positions included, and compared with the dense model at the same position. "
        f"`{ours.get('policy', 'budget')}` at {ratio(ours.get('bytes_ratio_gqa'))} of the bytes: {_loss(ours)}, {span}. "
        f"Certified mass ≤ 1 %: {_loss(mass)}.\n\n"
        "KL and top-1 agreement say what is lost; perplexity can improve when attention is damaged and decides nothing. "
        "The policies were fixed in the config, their thresholds fitted on threshold texts. With elimination off the largest logit "
        f"difference is {tiny(off.get('max_logit_difference'))}; {_identity(results)}. "
        "Intervals resample texts, and blocks of positions within each; that of a ratio of KLs leaves out each text in turn."
    )


def _identity(results: Results) -> str:
    """What each text's job checked before it measured; a difference beyond its bound has ended the run."""
    rows = results.table("quality.identity")
    ways = ("prefill", "block", "step")
    return "checked before the run: " + ", ".join(
        f"{way} {tiny(rows[f'{way}_difference'].max())}" for way in ways
    )


def _loss(policy: dict) -> str:
    return f"KL {tiny(policy.get('kl'))}, top-1 {percent(policy.get('top1'))}"


_COLUMNS = {
    "policy": Column("Policy"),
    "bytes_ratio_gqa": Column("Bytes, GQA-true", "ratio"),
    "bytes_ratio": Column("Per head", "ratio"),
    "kept_fraction": Column("Kept", "percent"),
    "kl": Column("KL", "tiny"),
    "kl_p99": Column("p99", "tiny"),
    "kl_max": Column("worst", "tiny"),
    "top1": Column("Top-1", "percent"),
    "sparse_perplexity": Column("Perplexity", "number"),
    "dense_perplexity": Column("dense", "number"),
    "positions": Column("n", "integer"),
}


def _policies(results: Results) -> Table:
    data = overall(results).sort("kind", "family", "bytes_ratio_gqa")
    return Table(
        "quality_policies",
        "Every policy over all held-out texts. Asked: the bytes ratio, mass or risk that the config names (ours: GQA-true, "
        "selectors: per head). Perplexities are over the positions that the policy decoded, so compare each with the dense "
        "one beside it. Context: how it was read before decoding began. Of a certificate on the dropped mass, the largest bound "
        "that any head's query had in any layer, and how many queries exact scores found to break it.",
        data,
        {
            "policy": _COLUMNS["policy"],
            "target": Column("Asked", "number"),
            **_COLUMNS,
            "prefill": Column("Context"),
            "certificate": Column("Promise"),
            "certified": Column("Largest bound", "percent"),
            "violated": Column("Broken", "integer"),
        },
        sources=("quality.summary",),
    )


def _equal(results: Results) -> Table:
    data = (
        results.table("quality.equal_bytes")
        .filter(pl.col("domain") == "all", pl.col("their_kl").is_not_null())
        .with_columns(in_words("against", family_name))
        .sort("against", "bytes_ratio_gqa")
    )
    return Table(
        "quality_equal_bytes",
        "Against peers and oracles at the policy's own measured GQA-true bytes, interpolated between the budgets at which they "
        "ran (log bytes, log KL), over the positions that all of them decoded. Nothing is extrapolated: policies beyond a "
        "peer's range are left out.",
        data,
        {
            "policy": Column("Policy"),
            "bytes_ratio_gqa": Column("Bytes", "ratio"),
            "against": Column("Against"),
            "kl": Column("KL", "tiny"),
            "their_kl": Column("theirs", "tiny"),
            "kl_ratio": Column("Times lower", "factor"),
            "kl_ratio_low": Column("from", "factor"),
            "kl_ratio_high": Column("to", "factor"),
            "top1": Column("Top-1", "percent"),
            "their_top1": Column("theirs ", "percent"),
            "positions": Column("n", "integer"),
        },
        sources=("quality.equal_bytes",),
    )


def _domains(results: Results) -> Table:
    summary = results.table("quality.summary")
    data = summary.filter(pl.col("role").is_not_null(), pl.col("domain") != "all").sort("policy", "domain")
    if data.is_empty():
        data = overall(results).filter(pl.col("role").is_not_null())
    return Table(
        "quality_domains",
        "The policies of the headline, text by text.",
        data,
        {"domain": Column("Domain"), **_COLUMNS},
        sources=("quality.summary",),
    )


def _worst(results: Results) -> Table:
    shown = role(results, "budget").get("policy") or overall(results)["policy"][0]
    data = results.table("quality.positions").filter(pl.col("policy") == shown)
    data = data.sort("kl", descending=True, maintain_order=True).head(_WORST)
    quoted = [
        pl.col(name).map_elements(repr, return_dtype=pl.String)
        for name in ("token", "dense_top", "sparse_top")
    ]
    return Table(
        "quality_worst",
        f"The positions with the largest KL under `{shown}`: the token that was read, what each model would say next, and how "
        "far the dense model's first choice lies above its second (nats).",
        data.with_columns(quoted),
        {
            "domain": Column("Domain"),
            "position": Column("Position", "integer"),
            "kl": Column("KL", "tiny"),
            "token": Column("Read"),
            "dense_top": Column("Dense says"),
            "sparse_top": Column("Sparse says"),
            "dense_margin": Column("Margin", "number"),
            "dense_entropy": Column("Entropy", "number"),
        },
        sources=("quality.positions", "quality.summary"),
    )


def _generations(results: Results) -> Table:
    data = results.table("quality.generations").with_columns(
        pl.col("output").str.replace_all(r"\s+", " ").str.replace_all("|", "/", literal=True)
    )
    return Table(
        "quality_generations",
        "Greedy continuations of the same context, step by step. Same: tokens before the first that differs from the dense "
        "model's; one near-tie decided otherwise changes all that follows.",
        data,
        {
            "domain": Column("Domain"),
            "policy": Column("Policy"),
            "bytes_ratio_gqa": Column("Bytes", "ratio"),
            "same": Column("Same", "integer"),
            "tokens": Column("of", "integer"),
            "output": Column("Continuation"),
        },
        sources=("quality.generations",),
    )


# What a table says of how sure a figure is.
_SURE = {
    name: f", avg({name}_low) AS low, avg({name}_high) AS high, avg({between}) AS {kind}"
    for name, between, kind in (
        *((name, f"{name}_deviation", "deviation") for name in ("kl", "top1", "bytes_ratio_gqa")),
        ("kl_ratio", "kl_log_ratio_deviation", "log_deviation"),
    )
}


def _quoted(
    goal: str, rows: str, values: dict[str, tuple[str, str]], table: str = "summary"
) -> tuple[HeadlineFigure, ...]:
    return tuple(
        HeadlineFigure(
            f"quality.{goal}.{name}",
            unit,
            f"quality.{table}",
            f"SELECT avg({column}) AS value, coalesce(sum(positions), 0) AS n, max(documents) AS texts{_SURE.get(column, '')} "
            f"FROM self WHERE domain = 'all' AND {rows}",
        )
        for name, (unit, column) in values.items()
    )


_KL = {"kl": ("nats a token, KL(dense || sparse)", "kl")}
_TOP1 = {"top1": ("share of positions with the dense model's top-1", "top1")}
_BYTES = {"bytes_ratio_gqa": ("bytes read / bytes of full fp16 K and V", "bytes_ratio_gqa")}
_AT_030 = "role = 'budget' AND bytes_ratio_gqa <= 0.30"


def _least(goal: str, rows: str) -> tuple[HeadlineFigure, ...]:
    """KL, bytes and top-1 of the policy of least KL among some."""
    best = f"(SELECT * FROM self WHERE domain = 'all' AND {rows} ORDER BY kl LIMIT 1) AS best"
    return tuple(
        HeadlineFigure(
            f"quality.{goal}.{name}",
            unit,
            "quality.summary",
            f"SELECT avg({column}) AS value, coalesce(sum(positions), 0) AS n, max(documents) AS texts{_SURE[column]} FROM {best}",
        )
        for name, (unit, column) in (_KL | _TOP1 | _BYTES).items()
    )


_BEST_RIVAL = (
    f"(SELECT * FROM self WHERE domain = 'all' AND {_AT_030} AND against_kind = 'peer' AND their_kl IS NOT NULL "
    "ORDER BY their_kl LIMIT 1) AS best"
)
HEADLINE = (
    *figures(
        "quality.summary",
        "self WHERE domain = 'all' AND kind = 'certified'",
        {"quality.certificates_violated": ("queries of a head", "sum(violated)")},
        "sum(positions)",
    ),
    *_quoted("identity", "role = 'identity'", {"max_logit_difference": ("logits", "max_logit_difference")}),
    *_quoted("mass_1pct", "role = 'mass'", _KL | _TOP1),
    *_quoted("at_030", _AT_030, _KL | _TOP1 | _BYTES),
    *_least("quantised", "family LIKE 'quantised%'"),
    *_least("stacked", "family LIKE 'ghost_cache%' AND bytes_ratio_gqa <= 0.15"),
    HeadlineFigure(
        "quality.best_rival",
        "the peer that loses least at the bytes of at_030",
        "quality.equal_bytes",
        f"SELECT min(against) AS value, coalesce(sum(positions), 0) AS n, max(documents) AS texts FROM {_BEST_RIVAL}",
    ),
    HeadlineFigure(
        "quality.best_rival_kl_ratio",
        "its KL / ours at equal bytes",
        "quality.equal_bytes",
        f"SELECT avg(kl_ratio) AS value, coalesce(sum(positions), 0) AS n, max(documents) AS texts{_SURE['kl_ratio']} "
        f"FROM {_BEST_RIVAL}",
    ),
)
CHAPTER = Chapter(
    "quality",
    "What the model says under elimination",
    build,
    front=("quality_policies",),
    needs=(DENSE, *(f"quality.{name}" for name in (
        "identity", "positions", "summary", "equal_bytes", "ablation", "generations",
    ))),
    headline=HEADLINE,
)  # fmt: skip
