"""The demonstration on the tiny model: its page, its answer, and that it leaves the run itself alone."""

from __future__ import annotations

import json
from dataclasses import replace

import polars as pl
import pytest

from tests.workflow.test_import import folders as folders  # a fixture


def test_the_demonstration_shows_a_frontier_and_what_the_model_wrote(project, tmp_path):
    run = replace(project, folder=tmp_path / "run")
    run.folder.mkdir()
    (run.folder / "tests").symlink_to(project.folder / "tests")
    said = run.snakemake("--", "demo").stdout
    report = run.folder / "results/demo/report"
    headline = json.loads((report / "headline.json").read_text())
    writing = pl.read_parquet(run.folder / "results/demo/writing.parquet")
    dense, ghost = writing.iter_rows(named=True)
    assert dense["tokens"] == ghost["tokens"] == 72
    assert dense["bytes_ratio_gqa"] == 1.0
    assert headline["demo.bytes_ratio_gqa"]["value"] == pytest.approx(ghost["bytes_ratio_gqa"])
    assert ghost["bytes_ratio_gqa"] < 1.0
    page = (report / "report.html").read_text()
    assert all(text["output"].split()[0] in page for text in (dense, ghost))
    # The answer and the page are the last lines.
    share = headline["frontier.elimination_at_fer_1pct"]["value"]
    answer, page = said.splitlines()[-2:]
    assert f"{100 * share:.1f} %" in answer
    # Seen from anywhere, as the run has a folder of its own.
    assert page.startswith(f"{report}/report.html  (")
    assert {path.name for path in (run.folder / "results").iterdir()} == {"demo", "logs"}


def test_imported_tensors_have_no_demonstration(project, folders):
    config = "capture=" + json.dumps({"import": folders, "layers": "all"})
    done = project.snakemake("--dry-run", "--config", config, "--", "demo", check=False)
    assert done.returncode == 1
    assert "snakemake frontier" in done.stdout
