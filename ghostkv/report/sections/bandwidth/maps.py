"""Figures of the memory model: the headline and the tiers."""

from __future__ import annotations

import polars as pl

from ghostkv.report.document import Column, HeadlineFigure, Prose, Table
from ghostkv.report.results import Results
from ghostkv.stages.bandwidth.tables import DIRECT, DROPPED

_HEADLINE_CROSSING = (
    "SELECT {column} AS value, 1 AS n FROM self WHERE shape IN (SELECT shape FROM self LIMIT 1) AND placement = '{placement}' "
    "AND scenario = '{scenario}' AND scheme = 'nested' AND against = '{against}'"
)


def _figure(
    name: str, unit: str, column: str, placement: str, against: str, scenario: str = "constant"
) -> HeadlineFigure:
    query = _HEADLINE_CROSSING.format(column=column, placement=placement, scenario=scenario, against=against)
    return HeadlineFigure(f"bandwidth.{name}", unit, "bandwidth.crossings", query)


def _error(name: str, unit: str, value: str, where: str = "held_out") -> HeadlineFigure:
    query = f"SELECT {value} AS value, count(*) AS n FROM self WHERE {where}"
    return HeadlineFigure(f"bandwidth.{name}", unit, "bandwidth.errors", query)


_TIMES = "attention time of the other / of nested storage, modelled, at bandwidth.headline_context"
HEADLINE = (
    _error("time_error_median", "relative error of held-out times", "median(abs(error))"),
    _error("time_error_worst", "relative error of the worst held-out time", "max(abs(error))"),
    _error(
        "time_error_median_dram",
        "relative error of held-out times in memory",
        "median(abs(error))",
        "held_out AND tier = 'dram'",
    ),
    HeadlineFigure(
        "bandwidth.bytes_error",
        "largest relative error of counted bytes",
        "bandwidth.counts",
        "SELECT max(error) AS value, count(*) AS n FROM self",
    ),
    _figure(
        "int4_crossing_hbm", "tokens from which nested beats INT4 in full, modelled", "context", "hbm", "int4"
    ),
    _figure("int4_speedup_hbm", _TIMES, "speedup", "hbm", "int4"),
    _figure("int4_speedup_hbm_trend", _TIMES, "speedup", "hbm", "int4", "trend"),
    _figure("full_speedup_hbm", _TIMES, "speedup", "hbm", "full"),
    _figure("int4_speedup_dram", _TIMES, "speedup", "dram", "int4"),
    _figure("int4_speedup_nvme", _TIMES, "speedup", "nvme", "int4"),
)


_PLACES = {"dram": "memory", "disk_direct": "disk", "disk_mapped": "disk", "store": "the lab's own store"}


def timed_places(results: Results) -> str:
    """What was timed and foretold, in words."""
    found = list(dict.fromkeys(_PLACES.get(tier, tier) for tier in results.table("bandwidth.errors")["tier"]))
    return " and ".join([", ".join(found[:-1]), found[-1]] if found[1:] else found)


def missing_note(results: Results) -> list[Prose]:
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


def tiers_table(results: Results) -> Table:
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
