"""`snakemake plan`: what every stage will take, before anything is fetched, and whether this machine has it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ghostkv.config.experiment import load_config
from ghostkv.files.io import write_text
from ghostkv.files.provenance import metadata
from ghostkv.files.tables import write_rows
from ghostkv.stages.plan.costs import PlannedJob, Speeds, planned_jobs
from ghostkv.stages.plan.disk import disk_gb
from ghostkv.stages.plan.machine import measure_machine, speeds_of
from ghostkv.stages.plan.schemas import PLAN_SCHEMA
from ghostkv.stages.plan.workload import Workload

if TYPE_CHECKING:
    from ghostkv.stages.plan.jobs import PlanRun

# What is left to others: a file system that is full to the last byte serves nobody.
_SPARE = 0.95


def plan_run(job: PlanRun, inputs: Mapping[str, str], outputs: Mapping[str, str]) -> None:
    """Write the plan as a table, and beside it as a text to read."""
    config = load_config(job.config)
    work = Workload(config, job.layers, job.size, job.max_context)
    speeds = speeds_of(measure_machine())
    rows = stage_rows(work, planned_jobs(work), speeds, job.downloads)
    write_rows(rows, outputs["plan"], PLAN_SCHEMA, metadata(job.code, model=config.model.name))
    warned = warnings(rows, _free_disk(job, config.plan.disk_gb), _memory(config.plan.memory_gb), job.folder)
    write_text("\n".join([*_lines(rows), "", *_said(work, speeds), *warned]) + "\n", outputs["text"])


def stage_rows(
    work: Workload, jobs: Sequence[PlannedJob], speeds: Speeds, downloads: Mapping[str, float]
) -> list[dict[str, Any]]:
    """A row of `PLAN_SCHEMA` for each stage, in their order."""
    fetched = {"model": work.size.download_bytes / 1e9}
    missing = [name for name in downloads if not _is_here(name)]
    fetched["texts"] = sum(downloads[name] for name in missing) / 1e3
    rows = []
    for stage in dict.fromkeys(job.stage for job in jobs):
        costs = [job.cost(work, speeds) for job in jobs if job.stage == stage]
        rows.append(
            {
                "stage": stage,
                "jobs": len(costs),
                "cpu_seconds": sum(cost.cpu_seconds for cost in costs),
                "longest_cpu_seconds": max(cost.cpu_seconds for cost in costs),
                "memory_gb": max(cost.memory_gb for cost in costs),
                "disk_gb": disk_gb(work, stage),
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


def _free_disk(job: PlanRun, stated: float | None) -> float:
    """GB that results may take: what is free beside what an earlier run left, which is written over."""
    if stated is not None:
        return stated
    folder = Path(job.folder)
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    held = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) if folder.is_dir() else 0
    return (shutil.disk_usage(there).free + held) / 1e9


def _memory(stated: float | None) -> float:
    """GB of this machine's memory, or those that the config states."""
    return stated or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9


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


def _said(work: Workload, speeds: Speeds) -> list[str]:
    """What the numbers stand for."""
    size, tokens = work.size, max(work.tokens, work.trace[0])
    said = [
        f"{work.config.model.name}: {size.layers} layers, {size.heads} heads, {size.kv_heads} KV heads, head_dim "
        f"{size.head_dim}, {size.parameters / 1e9:.2f} billion parameters; texts of {work.tokens:,} tokens.",
        f"CPU hours of this machine, whose starts, products of matrices and passes over memory take {speeds.start:.2f}, "
        f"{speeds.compute:.2f} and {speeds.memory:.2f} times as long as on the one that the rates come from. Memory is that of "
        "one job, at most.",
    ]
    if not work.config.capture.import_:
        held = work.weights + work.cache(tokens)
        said.append(
            f"On a GPU the weights and a cache of {tokens:,} tokens alone take {_gb(held)} GB of its memory. How long the model's "
            "jobs take there is not measured."
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
