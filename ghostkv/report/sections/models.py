"""Runs beside each other, of other models or other contexts: what each proves, and what its thresholds keep."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from ghostkv.report.document import Block, Chapter, Column, Prose, Table
from ghostkv.report.expressions import aimed_at, promised, weighted
from ghostkv.report.numbers import counted
from ghostkv.report.results import ORACLE, Results
from ghostkv.report.sections.certificates.figures import promise
from ghostkv.report.summaries import Promise, promises
from ghostkv.stages.certificates.schemas import NESTED

# Tables of this run and of the one beside it.
CERTIFICATES = ("certificates.context", "beside.certificates")
POINTS = ("frontier.context", "beside.frontier")
_ROW = ["run", "name", "model", "band_start", "band_stop"]


@dataclass(frozen=True)
class ContextTables:
    """What a run measured by context: its certificates and its calibrated points, and what either was read from."""

    name: str  # which run it is, in words
    model: str
    certificates: pl.DataFrame
    points: pl.DataFrame
    sources: tuple[str, str]


def build(results: Results) -> Sequence[Block]:
    """Which two runs, then their certificates and their calibrated points, context by context."""
    names = ("this run", f"the run in `{results.job.beside}`")
    runs = [
        ContextTables(name, results.metadata(tables[0]).get("model", "imported tensors"), *map(results.table, tables), tables)
        for name, tables in zip(names, zip(CERTIFICATES, POINTS, strict=True), strict=True)
    ]  # fmt: skip
    return by_context(runs, promises(results))


def by_context(runs: Sequence[ContextTables], aims: Sequence[Promise]) -> list[Block]:
    """Which runs these are, what they prove and what thresholds calibrated for `aims` keep, context by context."""
    return [Prose(_reading(runs)), _certificates(runs), _points(runs, aims)]


def _columns(runs: Sequence[ContextTables]) -> dict[str, Column]:
    """What tells the rows of two runs apart: the model, or where it is the same one, which run."""
    same = len({run.model for run in runs}) < len(runs)
    return ({"name": Column("Run")} if same else {}) | {"model": Column("Model"), "band": Column("Positions")}


def _reading(runs: Sequence[ContextTables]) -> str:
    lines = [
        f"- {model}, {name}: {counted(part.select('layer', 'head').n_unique(), 'head')} of "
        f"{counted(part['layer'].n_unique(), 'layer')}, {counted(part['text'].n_unique(), 'held-out text')}."
        for (name, model), part in _whole(runs).group_by("name", "model", maintain_order=True)
    ]
    about = (
        "Runs side by side, where they ask the same. A context is the position of a query, and only layers that see the whole "
        "text are counted, as a sliding window sees the same number of keys in any context."
    )
    return "\n".join([about, "", *lines])


def _all(runs: Sequence[ContextTables], kind: str) -> pl.DataFrame:
    """Rows of one kind of table of all runs, with their number, their name and the name of their model."""
    return pl.concat(
        getattr(run, kind).with_columns(
            pl.lit(number).alias("run"),
            pl.lit(run.name).alias("name"),
            pl.lit(run.model).alias("model"),
            pl.format("{}–{}", "band_start", "band_stop").alias("band"),
        )
        for number, run in enumerate(runs)
    )


def _whole(runs: Sequence[ContextTables]) -> pl.DataFrame:
    """Certificates of layers that see the whole text."""
    return _all(runs, "certificates").filter(pl.col("window") == 0)


def _share() -> pl.Expr:
    return (pl.col("elimination") / pl.col("oracle_elimination")).alias("share")


def _certificates(runs: Sequence[ContextTables]) -> Table:
    means = ("elimination", "oracle_elimination", "bytes_ratio", "bytes_ratio_gqa")
    by_chance = pl.when(pl.col("design") == NESTED).then(pl.lit("")).otherwise(pl.lit(", by chance"))
    data = (
        _whole(runs)
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
            **_columns(runs),
            "elimination": Column("Elimination", "percent"),
            "oracle_elimination": Column("Exact scores", "percent"),
            "share": Column("Share of exact", "ratio"),
            "bytes_ratio_gqa": Column("Bytes, GQA-true", "ratio"),
        },
        sources=[run.sources[0] for run in runs],
    )


def _points(runs: Sequence[ContextTables], aims: Sequence[Promise]) -> Table:
    means = ("elimination", "fer", "dropped_mass_mean", "bytes_ratio_gqa")
    goal = [*_ROW, "band", "target_metric", "target"]
    rows = (
        _all(runs, "points")
        .filter(pl.any_horizontal(aimed_at(one.metric, one.target) for one in aims))
        # Positions of the certificates are those that thresholds were calibrated at.
        .join(_whole(runs), on=["layer", *_ROW], how="semi")
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
            **_columns(runs),
            "code_bytes": Column("Code bytes", "integer"),
            "elimination": Column("Elimination", "percent"),
            "oracle_elimination": Column("Exact scores", "percent"),
            "share": Column("Share of exact", "ratio"),
            "fer": Column("FER", "percent"),
            "dropped_mass_mean": Column("Dropped mass", "percent"),
            "bytes_ratio_gqa": Column("Bytes, GQA-true", "ratio"),
            "oracle_bytes": Column("exact scores", "ratio"),
        },
        sources=[source for run in runs for source in run.sources],
    )


CHAPTER = Chapter(
    "models",
    "Beside another run",
    build,
    front=("models_certificates",),
    needs=(*CERTIFICATES, *POINTS),
)
