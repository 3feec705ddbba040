"""Where everything came from: model, texts, code, tables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from ghostkv import __version__
from ghostkv.files.usage import idle_share, read_usage
from ghostkv.report.document import Block, Chapter, Column, Prose, Table, figures
from ghostkv.report.results import Results

# Enough of a checksum to compare by eye; tables and manifest have all of it.
_SHORT = 12


def build(results: Results) -> Sequence[Block]:
    """Model and version, texts, tables with the fingerprint of the code that made them."""
    blocks: list[Block] = [Prose(_reading(results))]
    if results.has("texts.texts"):
        blocks.append(_texts(results))
    planned = [_planned(results)] if results.has("plan.compared") else []
    return [*blocks, *_costs(results), *planned, _tables(results)]


def _reading(results: Results) -> str:
    manifest = results.manifest()
    lines = [f"- Package ghostkv {__version__}, report code `{results.job.code or 'not stated'}`."]
    if manifest:
        lines.append(
            f"- Model {manifest['model']} ({manifest['architecture']}, {manifest['layers']} layers, "
            f"{manifest['heads']} heads, {manifest['kv_heads']} KV heads, head_dim {manifest['head_dim']}; "
            f"licence {manifest['license']}) from {manifest.get('origin', manifest['source'])}; sha256 of "
            f"the weights `{manifest['weight_sha256']}`."
        )
    else:
        lines.append("- Captured tensors were imported; what model they came from is not recorded.")
    headline = results.headline
    lines.append(
        f"- Headline design: codec `{headline['codec']}`, {results.size(headline['bits'])} "
        "and a byte of residual norm, rule "
        f"`{headline['rule']}`."
    )
    lines.append(
        "\n- Made from Parquet alone: no attention was recomputed for this page. Below each figure and table stand "
        "the files that it was made from, below each chapter all of its files, and every figure has its numbers in "
        "a CSV."
    )
    lines.append(
        "- Each figure of headline.json stands below its chapter with its query. To run one again: "
        "`polars.SQLContext({'self': polars.scan_parquet(file)}).execute(query, eager=True)`; for a pattern of files "
        "`scan_parquet(files, include_file_paths='text')`."
    )
    return "\n".join(lines)


def _texts(results: Results) -> Table:
    table = results.table("texts.texts")
    known = [name for name in ("source", "license") if name in table.columns]
    data = table.select(
        "text",
        "domain",
        "role",
        pl.col("documents").list.len().alias("documents"),
        pl.col("sha256").str.slice(0, _SHORT),
        *known,
    )
    return Table(
        "texts",
        "Texts and their roles: codec texts fit codecs, threshold texts choose thresholds, held-out texts "
        "are measured. No document has two roles.",
        data,
        {
            "text": Column("Text"),
            "domain": Column("Domain"),
            "role": Column("Role"),
            "documents": Column("Documents", "integer"),
            "sha256": Column("sha256"),
            **{
                name: Column(label)
                for name, label in (("source", "Source"), ("license", "Licence"))
                if name in known
            },
        },
        sources=("texts.texts",),
    )


def _costs(results: Results) -> list[Block]:
    """What every stage took of the machine; nothing where a report is made without the logs of its run."""
    usage = read_usage(Path(results.job.logs))
    if not usage:
        return []
    every = [job for jobs in usage.values() for job in jobs]
    rows = [
        {
            "stage": stage,
            "jobs": len(jobs),
            "cpu": sum(job.cpu_time for job in jobs),
            "longest": max(job.s for job in jobs),
            "memory": max(job.max_rss for job in jobs),
        }
        for stage, jobs in usage.items()
    ]
    said = f"{len(every)} jobs took {sum(job.cpu_time for job in every):,.0f} CPU seconds."
    if all(job.cores for job in every):
        cores = " or ".join(sorted({str(job.cores) for job in every}))
        said += (
            f" While any of them ran, {idle_share(every):.0%} of the time of the {cores} cores was left idle."
        )
    table = Table(
        "costs",
        "What each stage took: CPU seconds of all its jobs, wall time of the longest, and the most memory that one held.",
        pl.DataFrame(rows).sort("cpu", descending=True),
        {
            "stage": Column("Stage"),
            "jobs": Column("Jobs", "integer"),
            "cpu": Column("CPU seconds", "integer"),
            "longest": Column("Longest job, seconds", "integer"),
            "memory": Column("Memory, MB", "integer"),
        },
        sources=(),
    )
    return [Prose(said), table]


def _planned(results: Results) -> Table:
    """What was planned of each stage beside what was measured."""
    rows = results.table("plan.compared")
    about = {
        "cpu_seconds": ("CPU seconds", "integer"),
        "memory_gb": ("Memory, GB", "number"),
        "disk_gb": ("Disk, GB", "number"),
    }
    columns, shown = {"stage": Column("Stage")}, rows.select(pl.col("stage").unique(maintain_order=True))
    for quantity, (label, kind) in about.items():
        own = rows.filter(pl.col("quantity") == quantity)
        named = {name: f"{quantity}_{name}" for name in ("planned", "measured")}
        shown = shown.join(own.select("stage", *named).rename(named), on="stage", how="left")
        columns |= {name: Column(f"{label}, {what}", kind) for what, name in named.items()}
    return Table(
        "planned",
        "What formulas say of each stage (`snakemake plan`, at the speed that this machine was measured at) beside what its jobs "
        "took: CPU seconds of all jobs that left a log, memory of the largest, and its files, where all of its jobs ended.",
        shown,
        columns,
        sources=("plan.compared",),
    )


def _tables(results: Results) -> Table:
    rows = []
    for name in results.names():
        metadata = results.metadata(name)
        rows.append(
            {
                "table": results.path(name),
                "rows": results.rows(name),
                "model": metadata.get("model"),
                "version": metadata.get("package_version"),
                "code": metadata.get("fingerprint", "")[:_SHORT] or None,
            }
        )
    return Table(
        "tables",
        "All tables behind this page, and the fingerprint of the code that wrote each. A fingerprint changes "
        "when that code does, and the workflow then makes the table again.",
        pl.DataFrame(rows, infer_schema_length=None),
        {
            "table": Column("Table"),
            "rows": Column("Rows", "integer"),
            "model": Column("Model"),
            "version": Column("Version"),
            "code": Column("Code"),
        },
        sources=(),  # it lists them
    )


CHAPTER = Chapter(
    "provenance",
    "Provenance",
    build,
    front=("costs",),
    headline=figures(
        "plan.compared",
        "self",
        {
            "plan.worst_ratio": (
                "planned over measured, the worse side",
                "max(CASE WHEN ratio < 1 THEN 1 / ratio ELSE ratio END)",
            )
        },
    ),
)
