"""This run beside another, of another model or another context: what each proves, and what its thresholds keep."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from ghostkv.report.document import Block, Chapter, Column, Prose, Table
from ghostkv.report.expressions import aimed_at, promised, weighted
from ghostkv.report.numbers import counted
from ghostkv.report.results import ORACLE, Results
from ghostkv.report.sections.certificates.figures import promise
from ghostkv.report.summaries import promises
from ghostkv.stages.certificates.schemas import NESTED

# Tables of this run and of the one beside it.
CERTIFICATES = ("certificates.context", "beside.certificates")
POINTS = ("frontier.context", "beside.frontier")
_ROW = ["run", "model", "band_start", "band_stop"]
_COLUMNS = {"model": Column("Model"), "band": Column("Positions")}


def build(results: Results) -> Sequence[Block]:
    """Which two runs, then their certificates and their calibrated points, context by context."""
    return [Prose(_reading(results)), _certificates(results), _points(results)]


def _reading(results: Results) -> str:
    runs = ("this run", f"the run in `{results.job.beside}`")
    lines = [
        f"- {model}, {runs[run]}: {counted(part.select('layer', 'head').n_unique(), 'head')} of "
        f"{counted(part['layer'].n_unique(), 'layer')}, {counted(part['text'].n_unique(), 'held-out text')}."
        for (run, model), part in _whole(results).group_by("run", "model", maintain_order=True)
    ]
    about = (
        "Two runs side by side, where they ask the same. A context is the position of a query, and only layers that see the whole "
        "text are counted, as a sliding window sees the same number of keys in any context."
    )
    return "\n".join([about, "", *lines])


def _both(results: Results, tables: Sequence[str]) -> pl.DataFrame:
    """Rows of a table of this run (`run` 0) and of the one beside it (1), with the name of its model."""
    return pl.concat(
        results.table(name).with_columns(
            pl.lit(number).alias("run"),
            pl.lit(results.metadata(name).get("model", "imported tensors")).alias("model"),
            pl.format("{}–{}", "band_start", "band_stop").alias("band"),
        )
        for number, name in enumerate(tables)
    )


def _whole(results: Results) -> pl.DataFrame:
    """Certificates of layers that see the whole text."""
    return _both(results, CERTIFICATES).filter(pl.col("window") == 0)


def _share() -> pl.Expr:
    return (pl.col("elimination") / pl.col("oracle_elimination")).alias("share")


def _certificates(results: Results) -> Table:
    means = ("elimination", "oracle_elimination", "bytes_ratio", "bytes_ratio_gqa")
    by_chance = pl.when(pl.col("design") == NESTED).then(pl.lit("")).otherwise(pl.lit(", by chance"))
    data = (
        _whole(results)
        .filter((pl.col("certificate") == "topk") | (pl.col("decision") == "group"))
        .group_by("certificate", "target", "design", *_ROW, "band")
        .agg(map(weighted, means))
        .sort(
            pl.col("certificate") != "topk", -pl.col("target"), pl.col("design") != NESTED, "band_stop", "run"
        )
        .with_columns(_share(), pl.concat_str(promise(), by_chance).alias("promise"))
    )
    return Table(
        "models_certificates",
        "What is proved of every query, nested storage. Dropped mass is decided by groups: the heads that share a KV head leave out the "
        "same keys, each within its own target, and exact scores then decide so too. *By chance* is the randomised certificate, which "
        "holds but for a stated probability. *Share of exact*, the tightness, is what is "
        "eliminated over what exact scores would eliminate.",
        data,
        {
            "promise": Column("Certificate"),
            **_COLUMNS,
            "elimination": Column("Elimination", "percent"),
            "oracle_elimination": Column("Exact scores", "percent"),
            "share": Column("Share of exact", "ratio"),
            "bytes_ratio_gqa": Column("Bytes, GQA-true", "ratio"),
        },
        sources=CERTIFICATES,
    )


def _points(results: Results) -> Table:
    means = ("elimination", "fer", "dropped_mass_mean", "bytes_ratio_gqa")
    goal = [*_ROW, "band", "target_metric", "target"]
    rows = (
        _both(results, POINTS)
        .filter(pl.any_horizontal(aimed_at(one.metric, one.target) for one in promises(results)))
        # Positions of the certificates are those that thresholds were calibrated at.
        .join(_whole(results), on=["layer", *_ROW], how="semi")
    )
    oracle, own = (rows.filter((pl.col("codec") == ORACLE) == exact) for exact in (True, False))
    exact = oracle.group_by(goal).agg(
        weighted("elimination").alias("oracle_elimination"), weighted("bytes_ratio_gqa").alias("oracle_bytes")
    )
    data = (
        own.group_by(*goal, "code_bytes")
        .agg(map(weighted, means))
        .join(exact, on=goal, how="left")
        .sort("target_metric", "target", "band_stop", "run", descending=[True, False, False, False])
        .with_columns(promised(), _share())
    )
    return Table(
        "models_points",
        "Thresholds of the design that each run leads with, calibrated on other texts for a mean loss over all positions that "
        "it measures, and the loss in each context on held-out text. Exact scores are calibrated likewise; where they eliminate less, "
        "they also lose less.",
        data,
        {
            "promise": Column("Calibrated for"),
            **_COLUMNS,
            "code_bytes": Column("Code bytes", "integer"),
            "elimination": Column("Elimination", "percent"),
            "oracle_elimination": Column("Exact scores", "percent"),
            "share": Column("Share of exact", "ratio"),
            "fer": Column("FER", "percent"),
            "dropped_mass_mean": Column("Dropped mass", "percent"),
            "bytes_ratio_gqa": Column("Bytes, GQA-true", "ratio"),
            "oracle_bytes": Column("exact scores", "ratio"),
        },
        sources=(*CERTIFICATES, *POINTS),
    )


CHAPTER = Chapter(
    "models", "Beside another run", build, front=("models_certificates",), needs=(*CERTIFICATES, *POINTS)
)
