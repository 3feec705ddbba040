"""`snakemake plan`: what every stage will take, before anything is fetched, and whether this machine has it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ghostkv.files.io import write_text
from ghostkv.files.provenance import metadata
from ghostkv.files.tables import write_rows
from ghostkv.stages.plan.costs import Speeds, cost_of, disk_gb
from ghostkv.stages.plan.finished import sizes_on_disk
from ghostkv.stages.plan.machine import measure_machine, speeds_of
from ghostkv.stages.plan.schemas import PLAN_SCHEMA

if TYPE_CHECKING:
    from ghostkv.stages.plan.jobs import PlanRun

# What is left to others: a file system that is full to the last byte serves nobody.
_SPARE = 0.95


def plan_run(job: PlanRun, inputs: Mapping[str, str], outputs: Mapping[str, str]) -> None:
    """Write the plan as a table, and beside it as a text to read."""
    speeds = speeds_of(measure_machine())
    rows = stage_rows(job, speeds)
    write_rows(rows, outputs["plan"], PLAN_SCHEMA, metadata(job.code, model=job.model))
    warned = warnings(rows, _free_disk(job), _memory(job), job.folder)
    write_text("\n".join([*_lines(rows), "", *_said(job, speeds), *warned]) + "\n", outputs["text"])


def stage_rows(job: PlanRun, speeds: Speeds) -> list[dict[str, Any]]:
    """A row of `PLAN_SCHEMA` for each stage, in their order."""
    missing = [name for name in job.downloads if not _is_here(name)]
    fetched = {
        "model": job.size.download_bytes / 1e9,
        "texts": sum(job.downloads[name] for name in missing) / 1e3,
    }
    rows = []
    for stage in dict.fromkeys(one.stage for one in job.jobs):
        costs = [
            (cost_of(one.rates, one.terms, speeds), len(one.logs)) for one in job.jobs if one.stage == stage
        ]
        rows.append(
            {
                "stage": stage,
                "jobs": sum(count for _, count in costs),
                "cpu_seconds": sum(cost.cpu_seconds * count for cost, count in costs),
                "longest_cpu_seconds": max(cost.cpu_seconds for cost, _ in costs),
                "memory_gb": max(cost.memory_gb for cost, _ in costs),
                "disk_gb": disk_gb(stage, job.disk[stage]),
                "download_gb": fetched.get(stage, 0.0),
            }
        )
    return rows


def warnings(rows: Sequence[Mapping[str, Any]], disk: float, memory: float, folder: str) -> list[str]:
    """What this machine, or the one that the config states, does not have; GB."""
    needed = sum(row["disk_gb"] + row["download_gb"] for row in rows)
    found = []
    if needed > _SPARE * disk:
        largest = max(rows, key=lambda row: row["disk_gb"])
        found.append(
            f"DISK IS SHORT: all of it takes {_gb(needed)} GB, and {_gb(disk)} GB are free for {folder}. Most is of "
            f"{largest['stage']} ({_gb(largest['disk_gb'])} GB). Put results on another disk (a link), or write fewer "
            "capture.layers, texts or tokens."
        )
    large = [
        f"{row['stage']} ({_gb(row['memory_gb'])} GB)" for row in rows if row["memory_gb"] > _SPARE * memory
    ]
    if large:
        found.append(
            f"MEMORY IS SHORT: {_gb(memory)} GB are there, and a job holds more of {', '.join(large)}. Leave such a stage out, "
            "write fewer tokens, or run it where there is more (plan.memory_gb states how much)."
        )
    return found


def _is_here(name: str) -> bool:
    """Whether a wheel was fetched before; a data set of the hub is kept elsewhere, and counts as missing."""
    stem = name.partition("==")[0].replace("-", "_")
    return any(Path("resources/downloads").glob(f"{stem}-*"))


def _free_disk(job: PlanRun) -> float:
    """GB that a run may take: what is free beside what an earlier one left, which is written over."""
    if job.disk_gb is not None:
        return job.disk_gb
    folder = Path(job.folder)
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(there).free / 1e9 + sum(sizes_on_disk(job.disk, folder, job.model).values())


def _memory(job: PlanRun) -> float:
    """GB of this machine's memory, or those that the config states."""
    return job.memory_gb or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9


def _lines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The table, and its sum."""
    sums = {
        name: sum(row[name] for row in rows) for name in ("jobs", "cpu_seconds", "disk_gb", "download_gb")
    }
    most = {name: max(row[name] for row in rows) for name in ("longest_cpu_seconds", "memory_gb")}
    shown = [*rows, {"stage": "all", **sums, **most}]
    head = f"{'stage':<13} {'jobs':>5} {'CPU hours':>10} {'longest, min':>13} {'memory, GB':>11} {'disk, GB':>9} {'download, GB':>13}"
    return [head] + [
        f"{row['stage']:<13} {row['jobs']:>5} {row['cpu_seconds'] / 3600:>10.2f} {row['longest_cpu_seconds'] / 60:>13.1f} "
        f"{_gb(row['memory_gb']):>11} {_gb(row['disk_gb']):>9} {_gb(row['download_gb']):>13}"
        for row in shown
    ]


def _said(job: PlanRun, speeds: Speeds) -> list[str]:
    """What the numbers stand for."""
    size = job.size
    parameters = f"{size.parameters / 1e9:.2f} billion parameters, " if size.parameters else ""
    said = [
        f"{job.model}: {size.layers} layers, {size.heads} heads, {size.kv_heads} KV heads, head_dim {size.head_dim}, "
        f"{parameters}texts of {job.tokens:,} tokens.",
        f"CPU hours are this machine's: a start, a product of matrices and a pass over memory take {speeds.start:.2f}, "
        f"{speeds.compute:.2f} and {speeds.memory:.2f} times as long here as where the rates were fitted. Memory is that of one job.",
    ]
    if job.held_gb:
        said.append(
            f"On a GPU, weights and a cache of {job.longest:,} tokens take {_gb(job.held_gb)} GB of its memory, and what is "
            "computed comes on top. How long the model's jobs take there is not measured."
        )
    if size.assumed:
        said.append(
            f"ASSUMED, as nothing states it: {', '.join(size.assumed)}. Write: shape: config.json   (the model's own, under "
            "model.custom)"
        )
    return said


def _gb(value: float) -> str:
    return (
        "0"
        if value < 5e-5
        else f"{value:,.4f}"
        if value < 0.01
        else f"{value:,.2f}"
        if value < 100
        else f"{value:,.0f}"
    )
