"""Stage `bandwidth`: what each scheme costs on each memory, by a model that was checked."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from ghostkv.report.document import Block, Chapter, Column, HeadlineFigure, Prose, Table, aggregated, figures
from ghostkv.report.expressions import in_words
from ghostkv.report.numbers import percent
from ghostkv.report.results import Results
from ghostkv.report.sections.bandwidth.figures import (
    captured_shape,
    check_figure,
    maps_figure,
    sensitivity_figure,
    steps_figure,
)
from ghostkv.report.sections.bandwidth.losses import crossings_table, losses_table, verdict
from ghostkv.stages.bandwidth.equal_loss import EQUAL_ERROR
from ghostkv.stages.bandwidth.schemas import DIRECT, DROPPED


def build(results: Results) -> Sequence[Block]:
    """The check first, then what the model says."""
    return [
        Prose(_reading(results)),
        *_missing_note(results),
        check_figure(results),
        _fits(results),
        _counts(results),
        _tiers(results),
        _survivors(results),
        steps_figure(results),
        losses_table(results),
        Prose(verdict(results)),
        crossings_table(results),
        maps_figure(results),
        sensitivity_figure(results),
    ]


def _reading(results: Results) -> str:
    config, shape = results.config["bandwidth"], captured_shape(results)
    return (
        "Bytes are not time: memory moves whole lines and blocks, a request waits for its latency, and survivors lie "
        "scattered. The model of docs/bandwidth.md is first **checked on this machine**: gathers from "
        f"{_timed_places(results)} are timed, its parameters are fitted on every other configuration, and its error is "
        "that on the rest; and the bytes it counts are compared with those that instruments saw which know nothing of it. "
        "What follows is **modelled, not measured**: step times on tiers taken from datasheets, for the layers of "
        f"{shape} and of {config['served']['name']}, with the survivors that were measured on {shape} "
        f"({_point(results)}).\n\nWhere no captured band of positions holds the context, two scenarios stand side by side: "
        "*constant*, the share of the nearest band, and *trend*, the power law of the bands continued. *Pages, at best* "
        "reads the bounds of all pages and exactly those that hold a survivor, which no page method can beat at equal survivors. *Nested* "
        "assumes that the first planes of the stored key eliminate as the transform code of as many bytes. Attention time "
        "leaves the weights out, step time has them."
    )


def _point(results: Results) -> str:
    metric = {"fer": "FER", "dropped_mass": "dropped mass"}[results.config["bandwidth"]["point"]]
    target = max(results.config["frontier"]["targets"][results.config["bandwidth"]["point"]])
    return f"{metric} ≤ {percent(target, 0)}"


def _fits(results: Results) -> Table:
    return Table(
        "bandwidth_fits",
        "This machine's tiers as fitted on one half, and the error on the other. Latency in memory is what is left of it "
        "with several misses in flight; a direct read's overhead is the system call and the thread. *Spread* is the "
        "distance of the 10th from the 90th percentile of a configuration's repeats, over their median: what the machine's "
        "own unrest allows at best.",
        results.table("bandwidth.fits").with_columns(in_words("tier")),
        {
            "tier": Column("Tier"),
            "configurations": Column("Configurations", "integer"),
            "gb_s": Column("GB/s", "number"),
            "latency_us": Column("Latency (us)", "number"),
            "overhead_us": Column("Overhead (us)", "number"),
            "ramp_us": Column("Ramp (us)", "number"),
            "fitted_error_median": Column("Error, fitted", "percent"),
            "error_median": Column("held out", "percent"),
            "error_p90": Column("p90", "percent"),
            "error_worst": Column("worst", "percent"),
            "seconds_spread_median": Column("Spread", "percent"),
        },
        sources=("bandwidth.fits",),
    )


def _counts(results: Results) -> Table:
    moved, wanted = pl.col("measured_bytes").sum(), pl.col("wanted_bytes").sum()
    columns = {
        "tier": Column("Tier"),
        "instrument": Column("Instrument"),
        "unit": Column("Unit (B)", "integer"),
        "pattern": Column("Rows"),
        "gathers": Column("Gathers", "integer", pl.len()),
        "amplification": Column("Moved over wanted", "factor", moved / wanted),
        "error": Column("Largest error", "percent", pl.col("error").max()),
        "expected": Column("Random formula", "factor", pl.col("expected_bytes").sum() / moved),
    }
    return Table(
        "bandwidth_counts",
        "Bytes that the model counts from the rows' addresses beside what an instrument saw, worst gather. *Moved over "
        "wanted* is what whole units cost. *Random formula* is what rows drawn at random would touch, over what was "
        "touched: real survivors cluster, so that the formula overstates their blocks, and the model corrects for it.",
        aggregated(results.table("bandwidth.counts"), ["tier", "instrument", "unit", "pattern"], columns),
        columns,
        sources=("bandwidth.counts",),
    )


def _survivors(results: Results) -> Table:
    return Table(
        "bandwidth_survivors",
        "Survivors of cold keys that the model takes. Rows marked measured are of the band of positions that "
        "holds the context; all others are scenarios.",
        results.table("bandwidth.survivors"),
        {
            "scenario": Column("Scenario"),
            "context": Column("Context", "integer"),
            "measured": Column("measured", "yes_no"),
            "share_head": Column("Per head", "percent"),
            "share_group": Column("United over the group", "percent"),
            "share_group_low": Column("least layer", "percent"),
            "share_group_high": Column("most", "percent"),
            "exponent": Column("Exponent", "number"),
        },
        sources=("bandwidth.survivors",),
    )


_PLACES = {"dram": "memory", "disk_direct": "disk", "disk_mapped": "disk", "store": "the lab's own store"}


def _timed_places(results: Results) -> str:
    """What was timed and foretold, in words."""
    found = list(dict.fromkeys(_PLACES.get(tier, tier) for tier in results.table("bandwidth.errors")["tier"]))
    return " and ".join([", ".join(found[:-1]), found[-1]] if found[1:] else found)


def _missing_note(results: Results) -> list[Prose]:
    """Which tiers of this machine were not measured, why, and the way out; nothing where all were."""
    about = results.metadata("bandwidth.errors")
    if about.get(DROPPED) == "false":
        what, why = "Disk and store were not measured", (
            "keeps a file's pages when asked to drop them, as tmpfs does, so that reads would be timed from memory under "
            "the name of a disk"
        )  # fmt: skip
    elif about.get(DIRECT) == "false":
        what, why = "Direct reads and the store were not measured", "refuses `O_DIRECT`"
    else:
        return []
    return [
        Prose(
            f"**{what}**: the file system that holds results/bandwidth {why}. Tables below are without these tiers, and "
            "without the placement *measured disk*. Put results on a disk (ext4, xfs), delete "
            "results/bandwidth/samples.parquet and rerun."
        )
    ]


def _tiers(results: Results) -> Table:
    """The tiers as configured."""
    data = pl.DataFrame(results.config["bandwidth"]["tiers"])
    return Table(
        "bandwidth_tiers",
        "The tiers that are modelled, as configured, each with where its figures come from.",
        data,
        {
            "name": Column("Tier"),
            "gb_s": Column("GB/s", "number"),
            "near_gb_s": Column("Beside the memory", "number"),
            "latency_us": Column("Latency (us)", "number"),
            "unit": Column("Unit (B)", "integer"),
            "depth": Column("In flight", "integer"),
            "overhead_us": Column("Overhead (us)", "number"),
            "source": Column("Source"),
        },
        sources=(),  # the config
    )


_TIMES = (
    "attention time of the other / of nested storage, modelled, at equal loss and bandwidth.headline_context"
)
_TOKENS = "tokens from which nested beats INT4 in full at no more output error, modelled"
# Beside a full cache, which loses nothing.
_MASS = "dropped mass <= 0.05"


def _crossing(
    name: str,
    placement: str,
    against: str,
    scenario: str = "constant",
    value: tuple[str, str] = (_TIMES, "speedup"),
    goal: str = EQUAL_ERROR,
) -> tuple[HeadlineFigure, ...]:
    rows = (
        "self WHERE shape IN (SELECT shape FROM self LIMIT 1) AND scheme = 'nested' "
        f"AND placement = '{placement}' AND scenario = '{scenario}' AND against = '{against}' AND goal = '{goal}'"
    )
    return figures("bandwidth.crossings", rows, {f"bandwidth.{name}": value}, "1")


_MEDIAN = "median(abs(error))"
HEADLINE = (
    *figures(
        "bandwidth.errors",
        "self WHERE held_out",
        {
            "bandwidth.time_error_median": ("relative error of held-out times", _MEDIAN),
            "bandwidth.time_error_worst": ("relative error of the worst held-out time", "max(abs(error))"),
        },
    ),
    *figures(
        "bandwidth.errors",
        "self WHERE held_out AND tier = 'dram'",
        {"bandwidth.time_error_median_dram": ("relative error of held-out times in memory", _MEDIAN)},
    ),
    *figures(
        "bandwidth.counts",
        "self",
        {"bandwidth.bytes_error": ("largest relative error of counted bytes", "max(error)")},
    ),
    *_crossing("int4_crossing_hbm", "hbm", "int4", value=(_TOKENS, "context")),
    *_crossing("int4_speedup_hbm", "hbm", "int4"),
    *_crossing("int4_speedup_hbm_trend", "hbm", "int4", "trend"),
    *_crossing("int8_speedup_hbm", "hbm", "int8"),
    *_crossing("full_speedup_hbm", "hbm", "full", goal=_MASS),
    *_crossing("int4_speedup_dram", "dram", "int4"),
    *_crossing("int4_speedup_nvme", "nvme", "int4"),
)
CHAPTER = Chapter(
    "bandwidth",
    "Memory tiers",
    build,
    front=("bandwidth_losses", "bandwidth_check", "bandwidth_steps"),
    needs=("bandwidth.errors", "bandwidth.counts", "bandwidth.losses", "bandwidth.steps"),
    headline=HEADLINE,
)
