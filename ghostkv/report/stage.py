"""Stage `report`: everything measured, as a page to read, a Markdown file and one JSON file for machines."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ghostkv.files.errors import TableError
from ghostkv.files.io import write_json, write_text
from ghostkv.report.chapters import CHAPTERS
from ghostkv.report.document import Chapter, Figure
from ghostkv.report.figures import write_figure
from ghostkv.report.headline import measure
from ghostkv.report.render import BuiltChapter, as_html, as_markdown
from ghostkv.report.results import Results

if TYPE_CHECKING:
    from ghostkv.report.jobs import WriteReport

# Of stages that every report shows: these tables must be there.
_ALWAYS = ("capture.", "frontier.")


def write_report(
    job: WriteReport, inputs: Mapping[str, str | Sequence[str]], outputs: Mapping[str, str]
) -> None:
    """Write the report from tables alone.

    Raises
    ------
    TableError
        A table that the pipeline always makes was not given, or cannot be read.
    """
    results = Results(inputs, job)
    results.verify()
    present, left_out = _present(results)
    measured = measure(results, present)
    results.figures = {figure.name: figure.plain() for figure in measured.values()}
    chapters = [BuiltChapter.of(chapter, results, measured) for chapter in present]
    folder = Path(outputs["figures"])
    folder.mkdir(parents=True, exist_ok=True)
    blocks = [block for chapter in chapters for block in chapter.blocks]
    drawn = {
        block.name: write_figure(block, folder, job.png_scale)
        for block in blocks
        if isinstance(block, Figure)
    }
    for path in folder.iterdir():
        if path.stem not in drawn:  # of an earlier run with another config
            path.unlink()
    shown = {"title": job.title, "subtitle": _subtitle(results), "chapters": chapters, "left_out": left_out}
    write_json(results.figures, outputs["headline"])
    beside = Path(os.path.relpath(folder, Path(outputs["markdown"]).parent)).as_posix()
    write_text(as_markdown(**shown, table_rows=job.table_rows, figures=beside), outputs["markdown"])
    write_text(as_html(**shown, written=drawn), outputs["html"])


def _present(results: Results) -> tuple[list[Chapter], list[str]]:
    """Chapters whose tables exist, and why the others are left out."""
    present, left_out = [], []
    for chapter in CHAPTERS:
        lacking = [table for table in chapter.needs if not results.has(table)]
        for table in lacking:
            if table.startswith(_ALWAYS):
                raise TableError(
                    f"report: chapter {chapter.name} needs the table {table}, which was not given.\n"
                    f"  Write: add {table.replace('.', '_', 1)} to `report_tables` in ghostkv/report/jobs.py"
                )
        if not lacking:
            present.append(chapter)
            continue
        stages = [table.partition(".")[0] for table in lacking]
        if {"demo", "beside"} & {*stages}:  # a report of its own has it; the config names no other run
            continue
        why = f"not run. `snakemake {stages[0]}` runs it and shows it here."
        if stages[0] in results.job.impossible:
            why = "it runs the model, and imported tensors come without one."
        left_out.append(f"{chapter.title}: {why}")
    if results.job.impossible:
        left_out.append("The trace, the demonstration and the overhead of capture: they run the model too.")
    if not results.has_output:
        left_out.append("Output errors: no values were captured, so only softmax mass is known.")
    return present, left_out


def _subtitle(results: Results) -> str:
    manifest = results.manifest()
    model = manifest.get("model", "imported tensors")
    tokens = results.table("capture.layers")["tokens"].max()
    layers = results.table("frontier.safe_points")["layer"].n_unique()
    return (
        f"{model}: {layers} layers, {results.heads} heads, {tokens:,} tokens of context. How much of the KV "
        "cache can be eliminated before any of it moves?"
    )
