"""What the first form of the lab set out to reach, and whether this run reached it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from ghostkv.report.document import Block, Column, Prose, Section, Table
from ghostkv.report.headline import headline
from ghostkv.report.numbers import FORMATS
from ghostkv.report.results import Results

REACHED, MISSED, NOT_MEASURED = "reached", "missed", "not measured"


@dataclass(frozen=True)
class Target:
    """A figure to reach.

    Attributes
    ----------
    what : str
    figure : str
        Name in `headline.json`.
    bound : float
    at_least : bool
        Whether the figure must be at least the bound, or at most.
    format : str
    condition : tuple of str and float, optional
        Another figure that must be at most so large for the first to count.
    """

    what: str
    figure: str
    bound: float
    at_least: bool
    format: str
    condition: tuple[str, float] | None = None


TARGETS = (
    Target("Heads with a safe point on held-out text", "frontier.safe_head_share", 0.99, True, "percent"),
    Target(
        "Mean elimination at measured FER ≤ 1 %", "frontier.elimination_at_fer_1pct", 0.95, True, "percent",
        ("frontier.fer_at_fer_1pct", 0.01),
    ),
    Target(
        "Bytes ratio per head at that point", "frontier.bytes_ratio_at_fer_1pct", 0.10, False, "ratio",
        ("frontier.fer_at_fer_1pct", 0.01),
    ),
    Target("Worst relative error of recomputed attention", "capture.max_relative_error", 1e-3, False, "tiny"),
    Target("Capture over a plain forward pass", "capture.overhead_ratio", 1.3, False, "factor"),
    Target("Sweep over a loop on 19 thetas", "frontier.sweep_speedup", 50.0, True, "factor"),
    Target("Sweep and loop give identical counts", "frontier.sweep_identical_share", 1.0, True, "percent"),
    Target("Sweep at most thetas over sweep at fewest", "frontier.sweep_cost_growth", 1.5, False, "factor"),
)  # fmt: skip
_CONDITIONS = tuple(target.condition[0] for target in TARGETS if target.condition)
_QUOTED = tuple(dict.fromkeys((*(target.figure for target in TARGETS), *_CONDITIONS)))


def judge(target: Target, figures: Mapping[str, Mapping]) -> tuple[float | None, str]:
    """The measured figure, and whether it reached its target."""
    value = figures.get(target.figure, {}).get("value")
    if value is None:
        return None, NOT_MEASURED
    good = value >= target.bound if target.at_least else value <= target.bound
    if target.condition:
        name, limit = target.condition
        measured = figures.get(name, {}).get("value")
        good &= measured is not None and measured <= limit
    return value, REACHED if good else MISSED


def build(results: Results) -> Sequence[Block]:
    """Every target with the measured figure, misses named as misses."""
    # The sections list themselves after this module is read.
    from ghostkv.report.chapters import SECTIONS

    figures = headline(results, SECTIONS, _QUOTED)
    rows = []
    for target in TARGETS:
        value, verdict = judge(target, figures)
        show: Callable = FORMATS[target.format]
        rows.append(
            {
                "what": target.what,
                "target": f"{'≥' if target.at_least else '≤'} {show(target.bound)}",
                "measured": show(value),
                "verdict": verdict,
                "n": figures.get(target.figure, {}).get("n"),
            }
        )
    data = pl.DataFrame(rows, schema_overrides={"n": pl.Int64})
    return [Prose(_summary(results, rows, figures)), _table(results, data)]


def _summary(results: Results, rows: list[dict], figures: Mapping[str, Mapping]) -> str:
    missed = [row for row in rows if row["verdict"] == MISSED]
    unmeasured = sum(row["verdict"] == NOT_MEASURED for row in rows)
    reached = sum(row["verdict"] == REACHED for row in rows)
    text = f"{reached} of {len(rows)} targets reached, {len(missed)} missed"
    text += f", {unmeasured} not measured in this run." if unmeasured else "."
    for row in missed:
        text += f" **Missed:** {row['what'][0].lower()}{row['what'][1:]} is {row['measured']}, the target {row['target']}."
    fer = figures.get("frontier.fer_at_fer_1pct", {}).get("value")
    if fer is not None:
        text += (
            " The second and third row count only where the FER measured on held-out text, "
            f"{FORMATS['percent'](fer)}, keeps to 1 % as well."
        )
    return text + (
        " Wall time, peak memory and recovery from a kill are no part of the tables: Snakemake writes time "
        "and memory of each job to results/logs/, the test-suite kills and reruns."
    )


def _table(results: Results, data: pl.DataFrame) -> Table:
    return Table(
        "targets",
        f"Targets set before the run, and what this run measured ({results.design}, rule "
        f"`{results.headline['rule']}`, held-out text). n counts heads, captures or timings.",
        data,
        {
            "what": Column("Target"),
            "target": Column("At least / at most", "figure"),
            "measured": Column("Measured", "figure"),
            "n": Column("n", "integer"),
            "verdict": Column("Verdict"),
        },
    )


SECTION = Section(
    "targets", "Targets", build, needs=("frontier.layer_head", "frontier.safe_points"), quotes=_QUOTED
)
