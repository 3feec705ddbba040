"""Finished runs laid side by side from their reports: figures, frontiers, and what differs in config and code."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import altair as alt
import polars as pl

from ghostkv.files.errors import TableError
from ghostkv.files.seals import SealedParquet
from ghostkv.report.charts import above_floor, fer_axis, floored, logarithmic, quantity
from ghostkv.report.document import Block, Chapter, Column, Figure, Prose, Table
from ghostkv.report.numbers import NONE
from ghostkv.report.results import ORACLE
from ghostkv.report.schemas import SCHEMAS
from ghostkv.report.sections.models import ContextTables, by_context
from ghostkv.report.summaries import Promise
from ghostkv.report.theme import ORACLE_GREY, coloured, colours

# What a report leaves of its frontier.
_CURVE = "frontier_by_codec"
_MODEL = "{model}"


@dataclass(frozen=True)
class ReportedRun:
    """A run as its report left it.

    Attributes
    ----------
    folder : str
    about : dict
        What `run.json` says: model, version, config, and the code of each table.
    figures : dict
        Those of headline.json; a name that holds the model's has `{model}` in its place.
    curve : DataFrame
        Its frontier, a row a codec and theta.
    """

    folder: str
    about: Mapping[str, Any]
    figures: Mapping[str, Mapping[str, Any]]
    curve: pl.DataFrame

    @classmethod
    def read(cls, folder: str) -> ReportedRun:
        """The run in a results folder.

        Raises
        ------
        TableError
            A file of its report is not what a report writes.
        """
        report = Path(folder, "report")
        try:
            about = json.loads((report / "run.json").read_text(encoding="utf-8"))
            figures = json.loads((report / "headline.json").read_text(encoding="utf-8"))
            curve = pl.read_csv(report / "figures" / f"{_CURVE}.csv", infer_schema_length=None)
            model = f"{about['model']}."
            named = {
                name.replace(model, f"{_MODEL}.", 1) if name.startswith(model) else name: one
                for name, one in figures.items()
            }
            return cls(folder, about, named, curve)
        except (OSError, ValueError, KeyError, AttributeError, pl.exceptions.PolarsError) as error:
            raise TableError(
                f"{report}: not a finished report ({error}). Make it again: `snakemake report` where that run was made."
            ) from error

    def contexts(self) -> ContextTables | None:
        """Its tables by context; None where it has no certificates."""
        paths = tuple(f"{self.folder}/{stage}/context.parquet" for stage in SCHEMAS["beside"])
        if not all(map(Path.exists, map(Path, paths))):
            return None
        files = [
            SealedParquet(path, schema)
            for path, schema in zip(paths, SCHEMAS["beside"].values(), strict=True)
        ]
        return ContextTables(
            self.folder, self.about["model"], *(pl.from_arrow(file.table()) for file in files), paths
        )


class Comparison:
    """The runs that are compared, in the order in which they were named; the first is what others are held against."""

    def __init__(self, runs: Sequence[ReportedRun]):
        self.runs = runs

    def path(self, name: str) -> str:
        """Sources of a comparison are paths already."""
        return name

    def of_reports(self, file: str) -> list[str]:
        """A file of every run's report."""
        return [f"{run.folder}/report/{file}" for run in self.runs]

    def columns(self, format: str = "text") -> dict[str, Column]:
        """A column a run."""
        return {f"run_{turn}": Column(run.folder, format) for turn, run in enumerate(self.runs)}


def side_by_side(compared: Comparison) -> list[Block]:
    """Which runs, their frontiers overlaid, and every figure of their headlines."""
    lines = [
        f"- `{run.folder}`: {run.about['model']}, {run.about['config']['capture']['tokens']:,} tokens, texts of "
        f"{', '.join(run.about['config']['texts']['domains'])}; ghostkv {run.about['version']}."
        for run in compared.runs
    ]
    return [Prose("\n".join(lines)), _frontiers(compared), *_figures(compared)]


def _frontiers(compared: Comparison) -> Figure:
    parts = []
    for run in compared.runs:
        codec = run.about["config"]["frontier"]["headline"]["codec"]
        own = run.curve.filter(pl.col("codec").is_in([codec, ORACLE]))
        parts.append(
            own.select(
                pl.lit(run.folder).alias("run"),
                "codec",
                "theta",
                "elimination",
                "fer",
                "dropped_mass_mean",
                "bytes_ratio",
            )
        )
    swept = pl.concat(parts, how="vertical_relaxed")
    kind = (
        pl.when(pl.col("codec") == ORACLE)
        .then(pl.lit("exact scores"))
        .otherwise(pl.lit("records"))
        .alias("kind")
    )
    data = swept.with_columns(pl.concat_str("run", "codec", separator=" ").alias("series"), kind)
    names = colours(
        [run.folder for run in compared.runs], {}, ("#0072b2", "#d55e00", "#009e73", "#aa4499", "#e69f00")
    )
    dashes = alt.Scale(domain=["records", "exact scores"], range=[[1, 0], [5, 3]])

    def panel(rows: pl.DataFrame, x: alt.X, y: alt.Y) -> alt.Chart:
        encoded = alt.Chart(rows).mark_line(strokeWidth=2, clip=True).encode(
            x=x, y=y, order="theta:Q", detail="series:N", color=coloured("run", names),
            strokeDash=alt.StrokeDash("kind:N", scale=dashes, legend=alt.Legend(title=None, orient="top", symbolStrokeColor=ORACLE_GREY)),
        )  # fmt: skip
        return encoded.properties(width=270, height=270)

    eliminated = quantity(
        "elimination", "Elimination (share of cold keys)", alt.Y, percent=True, domain=[0, 1]
    )
    lost = logarithmic(1e-3, 1.0, clamp=True)
    mass = quantity(
        "dropped_mass_mean_drawn",
        "Dropped mass (mean)",
        alt.Y,
        percent=True,
        values=[1e-3, 1e-2, 0.1, 1],
        **lost,
    )
    read = quantity(
        "bytes_ratio",
        "Bytes ratio per head",
        values=[0.02, 0.1, 0.5, 1],
        format="~g",
        **logarithmic(0.02, 1.1, clamp=True),
    )
    chart = alt.hconcat(
        panel(above_floor(data, "series"), fer_axis(), eliminated),
        panel(data.with_columns(floored("dropped_mass_mean")), read, mass),
    )
    return Figure(
        "compared_frontiers",
        "Frontiers, one run over the other",
        chart,
        swept,
        "The codec that each run leads with, a point a theta for all heads alike, pooled over the layers in which that run compares "
        "codecs, on its held-out texts; dashed, exact scores. Left, up and to the left is better; right, down and to the left.",
        sources=compared.of_reports(f"figures/{_CURVE}.csv"),
    )  # fmt: skip


def _figures(compared: Comparison) -> list[Table]:
    """Figures that at least two runs have, with differences; then those of one run alone."""
    first, *others = compared.columns("number").items()
    columns = {"figure": Column("Figure"), first[0]: first[1]}
    for name, column in others:
        columns |= {name: column, f"{name}_less": Column("less the first", "number")}
    shared, alone = [], []
    for name in sorted({name for run in compared.runs for name in run.figures}):
        found = [
            one
            for one in (run.figures.get(name) for run in compared.runs)
            if one and one["value"] is not None
        ]
        values = {
            key: run.figures.get(name, {}).get("value")
            for key, run in zip(compared.columns(), compared.runs, strict=True)
        }
        less = {f"{key}_less": _less(value, values[first[0]]) for key, value in values.items()}
        row = {"figure": name, "unit": next((one["unit"] for one in found), None)} | values | less
        (shared if len(found) > 1 else alone).append(row)
    columns |= {"unit": Column("Unit")}
    own = {name: column for name, column in columns.items() if not name.endswith("_less")}
    named = f"`{_MODEL}` stands for the name of each run's model. A dash: that run has no such figure."
    schema = {name: pl.Float64 if name.startswith("run_") else pl.String for name in columns}
    return [
        Table(name, f"{caption} {named}", pl.DataFrame(rows, schema=schema), shown, sources=compared.of_reports("headline.json"))
        for name, caption, rows, shown in (
            ("compared_figures", f"Figures of the headlines of two runs or more, less those of {first[1].label}.", shared, columns),
            ("compared_alone", "Figures that one run alone has, or none.", alone, own),
        )
    ]  # fmt: skip


def _less(value: float | None, other: float | None) -> float | None:
    return None if value is None or other is None else value - other


def contexts(compared: Comparison) -> list[Block]:
    """What runs prove and keep by context; a sentence where fewer than two have certificates."""
    runs = [found for run in compared.runs if (found := run.contexts())]
    if len(runs) < 2:
        return [
            Prose(
                "Fewer than two of the runs have certificates, so that nothing can be laid side by side here."
            )
        ]
    targets = compared.runs[0].about["config"]["frontier"]["targets"]
    return by_context(
        runs, [Promise(metric, min(targets[metric])) for metric in ("fer", "dropped_mass") if targets[metric]]
    )


def changes(compared: Comparison) -> list[Block]:
    """Keys of the config and code of tables that are not the same in all runs."""
    configs = [_flat(run.about["config"]) for run in compared.runs]
    codes = [{name: one["code"] for name, one in run.about["tables"].items()} for run in compared.runs]
    shared = {name for name in set().union(*codes) if sum(name in one for one in codes) > 1}
    config = _differing(
        compared, "compared_config", "Keys of the config that differ. A dash: the key is not there.", configs
    )
    code = _differing(
        compared, "compared_code", "Tables of two runs or more that other code wrote, by the fingerprint of that code.",
        [{name: one[name] for name in one.keys() & shared} for one in codes],
    )  # fmt: skip
    said = (
        f"{config.data.height} keys of the config differ. Of {len(shared)} tables that two runs or more have, {code.data.height} were "
        "written by other code."
    )
    return [Prose(said), config, code]


def _flat(value: Any, name: str = "") -> dict[str, str]:
    """Values of nested sections by their dotted names; lists are values."""
    if isinstance(value, Mapping):
        return {
            key: one
            for part, held in value.items()
            for key, one in _flat(held, f"{name}.{part}" if name else part).items()
        }
    return {name: json.dumps(value, ensure_ascii=False)}


def _differing(compared: Comparison, name: str, caption: str, found: Sequence[Mapping[str, str]]) -> Table:
    keys = sorted({key for one in found for key in one})
    rows = [
        {"key": key} | {f"run_{turn}": one.get(key) or NONE for turn, one in enumerate(found)}
        for key in keys
        if len({one.get(key) for one in found}) > 1
    ]
    schema = dict.fromkeys(("key", *compared.columns()), pl.String)
    return Table(
        name,
        caption,
        pl.DataFrame(rows, schema=schema),
        {"key": Column("Key")} | compared.columns(),
        sources=compared.of_reports("run.json"),
    )


CHAPTERS = (
    Chapter("side_by_side", "Side by side", side_by_side, front=("compared_frontiers", "compared_figures")),
    Chapter("contexts", "Context by context", contexts, front=("models_certificates",)),
    Chapter(
        "changes", "What differs in config and code", changes, front=("compared_config", "compared_code")
    ),
)
