"""The randomised certificate: what holds but for a stated probability, beside what holds always."""

from __future__ import annotations

import polars as pl

from ghostkv.report.document import Block, Column, Prose, Table, figures
from ghostkv.report.expressions import weighted
from ghostkv.report.numbers import integer
from ghostkv.report.results import Results
from ghostkv.report.sections.certificates.contexts import CONTEXT
from ghostkv.report.sections.certificates.figures import TIGHTNESS, mean, pooled, promise
from ghostkv.stages.certificates.schemas import DITHERED, NESTED


def randomised(results: Results, frame: pl.DataFrame) -> list[Block]:
    """Its promise, beside that of the cascade at the same targets; nothing where the config leaves it out."""
    rows = frame.filter(pl.col("design") == DITHERED)
    if rows.is_empty():
        return []
    failure, once = rows["failure"].max(), rows.filter(pl.col("storage") == "additive")
    expected = once["checks"].sum() * failure
    verdict = (
        f"The {integer(once['checks'].sum())} promises made here may break {expected:.1g} times by that; "
        f"{integer(once['violations'].sum())} did."
    )
    return [
        Prose(
            "**By chance.** A margin of Cauchy-Schwarz allows for the worst direction: it is √head_dim standard deviations wide. The "
            f"dithered record ({once['record_bytes'][0]:g} bytes) has errors that its own coins make independent from key to key, so the "
            "sum of what is left out is known far better than its terms. Its promise is another one: dropped mass is at most the "
            f"target but for probability {failure:g} a head and query, for queries and keys that were chosen without knowing the coins. "
            + verdict
        ),
        _beside(frame),
        _by_context(results),
    ]


def _beside(frame: pl.DataFrame) -> Table:
    groups = frame.filter(
        pl.col("design").is_in([NESTED, DITHERED])
        & (pl.col("certificate") == "mass")
        & (pl.col("decision") == "group")
    )
    data = pooled(groups, ["certificate", "target", "storage", "design"]).sort(
        -pl.col("target"), pl.col("storage") != "nested", pl.col("design") != NESTED
    )
    return Table(
        "certificates_randomised",
        "Dropped mass where the group decides, means over all layers, heads and queries: the cascade, whose arithmetic always holds, and "
        "the dithered record, of which one level is read and whose promise may fail with the stated probability. The latter takes fewer "
        "queries.",
        data.with_columns(
            promise(),
            pl.when(pl.col("design") == NESTED)
            .then(pl.lit("always"))
            .otherwise(pl.lit("by chance"))
            .alias("holds"),
        ),
        {
            "promise": Column("Certificate"),
            "storage": Column("K stored"),
            "holds": Column("Holds"),
            "elimination": Column("Elimination", "percent"),
            "oracle_elimination": Column("Exact scores", "percent"),
            "tightness": Column("Tightness", "ratio"),
            "bytes_ratio_gqa": Column("GQA-true", "ratio"),
            "dropped_mass_mean": Column("Dropped mass", "percent"),
            "dropped_mass_max": Column("worst query", "percent"),
            "certified_mass_mean": Column("certified", "percent"),
            "violations": Column("Violations", "integer"),
        },
        sources=("certificates.certificates",),
    )


def _by_context(results: Results) -> Table:
    groups = results.table(CONTEXT).filter(
        (pl.col("certificate") == "mass") & (pl.col("decision") == "group")
    )
    keys = ["certificate", "target", "window", "band_start", "band_stop"]
    means = [weighted(name) for name in ("elimination", "bytes_ratio_gqa")]
    always, chance = (
        groups.filter(pl.col("design") == design).group_by(keys).agg(means) for design in (NESTED, DITHERED)
    )
    data = always.join(chance, on=keys, suffix="_chance").sort("window", -pl.col("target"), "band_start")
    seen = pl.when(pl.col("window") == 0).then(pl.lit("whole text")).otherwise(pl.format("last {}", "window"))
    return Table(
        "certificates_randomised_context",
        "The same by context, nested storage. A sum of more keys is known better, relative to its size. Chance takes fewer queries.",
        data.with_columns(
            promise(), pl.format("{}–{}", "band_start", "band_stop").alias("band"), seen.alias("sees")
        ),
        {
            "promise": Column("Certificate"),
            "sees": Column("Layers see"),
            "band": Column("Positions"),
            "elimination": Column("Always: elimination", "percent"),
            "bytes_ratio_gqa": Column("GQA-true", "ratio"),
            "elimination_chance": Column("By chance: elimination", "percent"),
            "bytes_ratio_gqa_chance": Column("GQA-true", "ratio"),
        },
        sources=(CONTEXT,),
    )


_ROWS = {
    name: f"design = '{DITHERED}' AND target > {0.99 * share} AND target < {1.01 * share}"
    for name, share in (("mass_5pct", 0.05), ("mass_1pct", 0.01))
}
_LONGEST = "window = 0 AND band_stop = (SELECT MAX(band_stop) FROM self WHERE window = 0 AND band_stop > 0)"
RANDOMISED_HEADLINE = (
    *(
        figure
        for name, rows in _ROWS.items()
        for figure in figures(
            "certificates.certificates",
            f"self WHERE {rows} AND storage = 'nested'",
            {
                f"certificates.randomised.{name}.elimination": ("share", mean("elimination")),
                f"certificates.randomised.{name}.bytes_ratio_gqa": ("ratio", mean("bytes_ratio_gqa")),
                f"certificates.randomised.{name}.tightness": ("ratio", TIGHTNESS),
            },
            by_text="certificates.certificates",
        )
    ),
    *(
        figure
        for name, rows in _ROWS.items()
        for figure in figures(
            CONTEXT,
            f"self WHERE {rows} AND {_LONGEST}",
            {f"context.randomised_{name}_bytes_gqa_at_longest": ("ratio", mean("bytes_ratio_gqa"))},
            by_text=CONTEXT,
        )
    ),
)
