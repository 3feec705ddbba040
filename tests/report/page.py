"""A report of the made-up run, as files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ghostkv.report.stage import write_report
from tests.report.fixtures import make_params, make_tables


def write_report_of(tables: Mapping, folder: Path, **report) -> Path:
    """The report of some tables, in a folder."""
    outputs = {
        "markdown": folder / "RESULTS.md",
        "html": folder / "report.html",
        "headline": folder / "headline.json",
        "power": folder / "power.parquet",
        "run": folder / "run.json",
        "figures": folder / "figures",
    }
    paths = {name: str(path) for name, path in outputs.items()}
    write_report(make_params(png_scale=0.5, **report), tables, paths)
    return folder


def write_page(folder: Path) -> Path:
    """The report of every table that is made up."""
    return write_report_of(make_tables(folder / "results"), folder / "report")
