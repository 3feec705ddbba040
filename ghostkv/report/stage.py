"""Stage `report`: everything measured, as a page to read, a Markdown file and one JSON file for machines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ghostkv import __version__
from ghostkv.files.errors import TableError
from ghostkv.files.io import write_json, write_table
from ghostkv.report.chapters import CHAPTERS
from ghostkv.report.document import Chapter
from ghostkv.report.files import write_document
from ghostkv.report.headline import measure
from ghostkv.report.power import POWER_SCHEMA, power_table
from ghostkv.report.render import BuiltChapter
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
    results.power = power_table(measured)
    chapters = [BuiltChapter.of(chapter, results, measured) for chapter in present]
    write_json(results.figures, outputs["headline"])
    write_table(results.power, outputs["power"], POWER_SCHEMA, {"fingerprint": job.code})
    write_json(_about(results), outputs["run"])
    write_document(job, job.title, _subtitle(results), chapters, left_out, outputs)


def _about(results: Results) -> dict[str, Any]:
    """What a comparison with another run asks of this one: its model, its config, and the code of each table."""
    codes = {name: results.metadata(name).get("fingerprint") for name in results.names()}
    return {
        "model": results.manifest().get("model", "imported tensors"),
        "version": __version__,
        "config": results.config,
        "tables": {name: {"rows": results.rows(name), "code": code} for name, code in codes.items()},
    }


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
