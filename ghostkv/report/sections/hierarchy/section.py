"""Stage `hierarchy`: whether an index over the records pays for itself."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from ghostkv.report.document import Block, Chapter, Column, Prose, Table, aggregated, figures
from ghostkv.report.expressions import in_words
from ghostkv.report.numbers import counted, integer, number, percent
from ghostkv.report.results import Results
from ghostkv.report.sections.hierarchy.figures import bytes_figure, chosen, layers_figure, reads_figure

# What reads of a head are held against: half of the flat scan's records.
_HALF = 0.5


def build(results: Results) -> Sequence[Block]:
    """What is read and at which bytes, every index, where it would start to pay, and the checks."""
    heads = results.table("hierarchy.heads")
    return [
        Prose(_reading(results, heads)),
        reads_figure(heads),
        bytes_figure(heads),
        layers_figure(heads),
        _indexes(heads),
        _layers(heads),
        Prose(_growth(results, heads)),
        _fits(results.table("hierarchy.fits")),
        _checks(results.table("hierarchy.checks")),
    ]


def _trace(heads: pl.DataFrame, certificate: str, aim: str = "reads") -> pl.DataFrame:
    rows = chosen(heads, aim)
    return rows.filter(pl.col("role") == "trace", pl.col("certificate") == certificate)


def _under_half(rows: pl.DataFrame) -> float:
    return float((rows["reads_ratio"] < _HALF).mean())


def _reading(results: Results, heads: pl.DataFrame) -> str:
    proven, cheap = _trace(heads, "topk"), _trace(heads, "topk", "bytes")
    statistical = _trace(heads, "calibrated")
    checks = results.table("hierarchy.checks")
    broken = int(checks["violations"].sum())
    context, share = int(proven["context"].max()), _under_half(proven)
    saves = float((cheap["bytes_ratio"] < cheap["flat_bytes_ratio"]).mean())
    scan = proven["scan_ratio"].mean()
    return (
        "Keys are gathered in small clusters, and an *anchor* says how high any of a cluster's members can score. A cluster whose "
        "bound lies below the top-k threshold is ruled out before a record of it is read, so the certificate is that of the flat "
        f"scan: FER = 0 by arithmetic. {counted(int(checks['checks'].sum()), 'check')} against exact scores in float64, "
        f"{'none failed' if not broken else f'**{broken:,} failed**'}. "
        f"At {context:,} tokens {percent(share)} of the heads read less than half of the flat scan's records; mean reads are "
        f"{number(proven['reads_ratio'].mean())} of the flat scan's, those of the worst head "
        f"{number(proven['reads_ratio'].max())}. **Bytes**: the indexes that read least scan {number(scan)} times the bytes of "
        "the flat scan, as an anchor that bounds a handful of keys tightly is longer than their records; of the indexes "
        f"chosen for bytes, {percent(saves)} of the heads read fewer in all than without one "
        f"(mean {number((cheap['bytes_ratio'] / cheap['flat_bytes_ratio']).mean())} times).\n\n"
        "The reason is geometry: seen from the frame of the queries, what is left of a key within its cluster "
        "points in all directions alike, and a bound must assume the worst of them. "
        f"*Statistical variant*, weaker: margins shrunk to the share that threshold texts need for a FER of "
        f"{percent(results.config['hierarchy']['fer'])} read {number(statistical['reads_ratio'].mean())} of the flat scan's "
        f"({percent(_under_half(statistical))} of the heads below half) at {number(statistical['scan_ratio'].mean())} of its "
        f"scanned bytes, with a measured FER of {percent(statistical['fer'].mean())} (worst head "
        f"{percent(statistical['fer'].max())})."
    )


_READS = pl.col("reads_ratio")
_POOLED = {
    "heads": Column("Heads", "integer", pl.len()),
    "reads_ratio": Column("Reads / flat", "ratio"),
    "reads_low": Column("p10 head", "ratio", _READS.quantile(0.1)),
    "reads_worst": Column("worst head", "ratio", _READS.max()),
    "under_half": Column("Heads < 1/2", "percent", (_READS < _HALF).mean()),
    "scan_ratio": Column("Scan bytes / flat", "ratio"),
    "bytes_ratio": Column("Bytes", "ratio"),
    "flat_bytes_ratio": Column("flat", "ratio"),
}


def _indexes(heads: pl.DataFrame) -> Table:
    trace = heads.filter(pl.col("role") == "trace")
    measured = trace.group_by("layer").agg(pl.col("index").n_unique().alias("indexes"))
    # Side by side are those layers alone in which every index was measured.
    shared = measured.filter(pl.col("indexes") == pl.col("indexes").max())["layer"]
    columns = {
        "certificate": Column("Certificate"),
        "target": Column("Target", "percent"),
        "index": Column("Index"),
        "mode": Column("Built"),
        "anchor_bytes": Column("Anchor bytes", "integer"),
        **_POOLED,
        "bytes_ratio_gqa": Column("GQA-true", "ratio"),
        "flat_bytes_ratio_gqa": Column("flat", "ratio"),
        "fer": Column("FER", "percent"),
        "fer_worst": Column("worst head", "percent", pl.col("fer").max()),
    }
    rows = trace.filter(pl.col("layer").is_in(shared.to_list()))
    data = aggregated(rows, ["certificate", "target", "index", "mode"], columns)
    named = {"topk": "top-k", "mass": "dropped mass", "calibrated": "statistical"}
    return Table(
        "hierarchy_indexes",
        "Every index on the trace at its full length: partition, keys a cluster, bound (2: two levels). All heads of the "
        f"{shared.len()} layers in which every index was measured. Scanned bytes are those of "
        "anchors and record levels; Bytes is all that is read over full K and V. *Appended*: built from decoded chunks alone, "
        "*grown*: from the prompt in blocks, then chunks. *Statistical* is no certificate. Reads and GQA-true bytes are not "
        "counted for a dash.",
        data.sort("certificate", "mode", "reads_ratio").with_columns(
            pl.col("certificate").replace(named), in_words("index")
        ),
        columns,
        sources=("hierarchy.heads",),
    )


def _layers(heads: pl.DataFrame) -> Table:
    columns = {"layer": Column("Layer", "integer"), **_POOLED}
    return Table(
        "hierarchy_by_layer",
        "The certificate with each KV head's own index, layer by layer, on the trace.",
        aggregated(_trace(heads, "topk"), "layer", columns).sort("layer"),
        columns,
        sources=("hierarchy.heads",),
    )


def _growth(results: Results, heads: pl.DataFrame) -> str:
    fits = results.table("hierarchy.fits")
    ratio = fits.filter(pl.col("measure") == "bytes", pl.col("chosen_for") == "bytes")
    falling = ratio.filter(pl.col("high") < 0)
    crossing = ratio["pays_from"].drop_nulls()
    beyond = crossing.filter(crossing > ratio["longest"].max())
    reads = fits.filter(pl.col("measure") == "reads", pl.col("chosen_for") == "reads")
    domains = chosen(heads).filter(pl.col("certificate") == "topk", pl.col("role") == "held_out")
    longest = domains.filter(pl.col("context") == domains["context"].max())
    by_domain = (
        longest.group_by("domain", maintain_order=True).agg(pl.col("reads_ratio").mean()).sort("domain")
    )
    spread = ", ".join(
        f"{row['domain']} {number(row['reads_ratio'])}" for row in by_domain.iter_rows(named=True)
    )
    at = f" Held-out texts at {int(longest['context'].max()):,} tokens: {spread}." if longest.height else ""
    text = (
        "**Where it would start to pay.** On every head, reads are fitted as a power of the number of cold keys, "
        f"`reads = a n^b`; the median b is {number(reads['exponent'].median())} (flat: 1), and the upper end of its 95 % interval "
        f"lies below 1 on {percent((reads['high'] < 1).mean())} of the heads. The bytes of the index chosen for bytes, over "
        f"the flat scan's, surely fall with the context on {percent(falling.height / max(ratio.height, 1))} of the heads. "
    )
    if len(beyond):
        text += (
            f"Extrapolated, the ratio falls below 1 on {percent(len(crossing) / max(ratio.height, 1))} of the heads, on those "
            f"that do so beyond what was measured at a median of {integer(beyond.median())} keys. "
        )
    return text + (
        "This is the model continued far beyond its few points, contexts come from different texts, and nothing says "
        f"that it holds there.{at}"
    )


def _fits(fits: pl.DataFrame) -> Table:
    exponent, pays = pl.col("exponent"), pl.col("pays_from")
    flat = pl.when(pl.col("measure") == "reads").then(1.0).otherwise(0.0)
    columns = {
        "chosen_for": Column("Index chosen for"),
        "measure": Column("Fitted"),
        "heads": Column("Heads", "integer", pl.len()),
        "points": Column("Points", "integer", pl.col("points").median()),
        "texts": Column("Texts", "integer", pl.col("texts").median()),
        "exponent": Column("Exponent, median", "ratio", exponent.median()),
        "steepest": Column("least", "ratio", exponent.min()),
        "flattest": Column("most", "ratio", exponent.max()),
        "surely": Column("Surely sub-linear", "percent", (pl.col("high") < flat).mean()),
        "crossing": Column("Heads that cross", "percent", pays.is_not_null().mean()),
        "pays_from": Column("Pays from", "integer", pays.median()),
    }
    named = {"reads": "reads", "reads_ratio": "reads / flat", "bytes": "bytes / flat"}
    data = aggregated(fits, ["chosen_for", "measure"], columns)
    return Table(
        "hierarchy_fits",
        "Power laws of the number of cold keys, a fit a head over held-out texts, context lengths and the trace. *Surely*: heads "
        "whose 95 % interval over texts lies below 1 (reads) or 0 (ratios). *Pays from*: keys at which bytes / flat falls below 1, "
        "reads / flat below one half; median over the heads that ever do so.",
        data.with_columns(pl.col("measure").replace(named)),
        columns,
        sources=("hierarchy.fits",),
    )


def _checks(checks: pl.DataFrame) -> Table:
    named = {
        "leaf": "member's float64 score is at most its cluster's bound",
        "coarse": "member's float64 score is at most its coarse anchor's bound",
        "topk": "query keeps its whole exact top-k",
        "mass": "query drops at most the stated mass",
    }
    columns = {
        "what": Column("Claim"),
        "bound": Column("Bound"),
        "checks": Column("Checks", "integer", pl.col("checks").sum()),
        "violations": Column("Violations", "integer", pl.col("violations").sum()),
    }
    data = aggregated(checks, ["what", "bound"], columns).sort("what", "bound")
    return Table(
        "hierarchy_checks",
        "What was verified against exact scores, all layers, texts, contexts and appended blocks.",
        data.with_columns(pl.col("what").replace(named)),
        columns,
        sources=("hierarchy.checks",),
    )


_TRACE = "self WHERE role = 'trace' AND context >= 8192 AND mode = 'grown' AND certificate = "
_CHEAPER = "avg(CASE WHEN bytes_ratio < flat_bytes_ratio THEN 1.0 ELSE 0.0 END)"
_UNDER_HALF = "avg(CASE WHEN reads_ratio < 0.5 THEN 1.0 ELSE 0.0 END)"
HEADLINE = (
    *figures(
        "hierarchy.checks", "self", {"hierarchy.violations": ("checks", "sum(violations)")}, "sum(checks)"
    ),
    *figures(
        "hierarchy.heads",
        f"{_TRACE} 'topk' AND chosen_for_reads",
        {
            "hierarchy.heads_reading_under_half_at_8k": ("share of heads", _UNDER_HALF),
            "hierarchy.reads_ratio_at_8k": ("of the flat scan's records", "avg(reads_ratio)"),
        },
        by_text="hierarchy.heads",
    ),
    *figures(
        "hierarchy.heads",
        f"{_TRACE} 'topk' AND chosen_for_bytes",
        {"hierarchy.heads_cheaper_in_bytes_at_8k": ("share of heads", _CHEAPER)},
        by_text="hierarchy.heads",
    ),
    *figures(
        "hierarchy.heads",
        f"{_TRACE} 'calibrated'",
        {
            "hierarchy.statistical_heads_reading_under_half_at_8k": ("share of heads", _UNDER_HALF),
            "hierarchy.statistical_fer_at_8k": ("of the exact top-k", "avg(fer)"),
        },
        by_text="hierarchy.heads",
    ),
)
CHAPTER = Chapter(
    "hierarchy",
    "Does an index over the records pay?",
    build,
    front=("hierarchy_bytes",),
    needs=("hierarchy.heads", "hierarchy.fits", "hierarchy.checks"),
    headline=HEADLINE,
)
