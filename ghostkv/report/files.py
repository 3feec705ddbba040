"""Chapters as files: a page, Markdown, and a folder of figures."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ghostkv.files.io import write_text
from ghostkv.report.document import Figure
from ghostkv.report.figures import write_figure
from ghostkv.report.render import BuiltChapter, as_html, as_markdown

if TYPE_CHECKING:
    from ghostkv.report.jobs import CompareRuns, WriteReport


def write_document(
    job: WriteReport | CompareRuns,
    title: str,
    subtitle: str,
    chapters: Sequence[BuiltChapter],
    left_out: Sequence[str],
    outputs: Mapping[str, str],
) -> None:
    """Write chapters as a page and as Markdown, and their figures into a folder."""
    folder = Path(outputs["figures"])
    folder.mkdir(parents=True, exist_ok=True)
    figures = [block for chapter in chapters for block in chapter.blocks if isinstance(block, Figure)]
    written = {figure.name: write_figure(figure, folder, job.png_scale) for figure in figures}
    for path in folder.iterdir():
        if path.stem not in written:  # of an earlier run with another config
            path.unlink()
    shown = {"title": title, "subtitle": subtitle, "chapters": chapters, "left_out": left_out}
    beside = Path(os.path.relpath(folder, Path(outputs["markdown"]).parent)).as_posix()
    write_text(as_markdown(**shown, table_rows=job.table_rows, figures=beside), outputs["markdown"])
    write_text(as_html(**shown, written=written), outputs["html"])
