"""Target `compare`: finished runs side by side, as a page to read and a Markdown file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ghostkv.report.files import write_document
from ghostkv.report.render import BuiltChapter
from ghostkv.report.sections.compared import CHAPTERS, Comparison, ReportedRun

if TYPE_CHECKING:
    from ghostkv.report.jobs import CompareRuns


def compare_runs(job: CompareRuns, inputs: Mapping[str, list[str]], outputs: Mapping[str, str]) -> None:
    """Write the comparison from what the reports of the runs left.

    Raises
    ------
    TableError
        A report is not as it was written.
    """
    del inputs
    compared = Comparison([ReportedRun.read(folder) for folder in job.runs])
    chapters = [BuiltChapter.of(chapter, compared, {}) for chapter in CHAPTERS]
    write_document(job, "Runs side by side", ", ".join(job.runs), chapters, [], outputs)
