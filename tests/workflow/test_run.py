"""A whole run: what it makes, that a second does nothing, that any file can be asked for by name."""

from __future__ import annotations

import json
import re
import resource
import subprocess
import sys

import pyarrow.parquet as pq
import pytest

from ghostkv.config.experiment import Config
from tests.workflow.conftest import STAGES

TABLES = {
    "texts": ["texts"],
    "frontier": ["sweep", "points", "context", "bounds", "safe_points", "layer_head"],
    "calibrated": [
        "calibrated",
        "bands",
        "cross_domain",
        "texts",
        "learned",
        "summary",
        "dependence",
        "high_probability",
        "resampled",
        "exchangeability",
        "monitored",
        "validity",
        "surely",
        "alike",
        "alarms",
    ],
    "peers": ["peers", "layers", "summary", "comparison", "verdicts"],
    "historical": ["sweep", "ablation", "knobs"],
    "benchmark": ["capture_overhead", "sweep_speed"],
    "speed": ["layers"],
}


@pytest.mark.parametrize("table", [f"{stage}/{name}" for stage, names in TABLES.items() for name in names])
def test_every_table_has_rows_and_says_what_made_it(project, table):
    file = pq.ParquetFile(project.folder / "results" / f"{table}.parquet")
    assert file.metadata.num_rows > 0
    assert {b"package_version", b"fingerprint"} <= set(file.schema_arrow.metadata)


def test_every_capture_is_proved(project):
    for text in ("prose_codec_0", "prose_threshold_0", "prose_held_out_0"):
        layers = pq.read_table(project.folder / "results/capture" / text / "layers.parquet").to_pydict()
        assert layers["layer"] == [0, 1]
        assert max(layers["max_relative_error"]) < 1e-3


def test_report_is_complete(project):
    folder = project.folder / "results/report"
    assert (folder / "RESULTS.md").read_text().startswith("#")
    headline = json.loads((folder / "headline.json").read_text())
    for figure in ("frontier.safe_head_share", "capture.max_relative_error", "capture.overhead_ratio"):
        assert {"value", "unit", "n", "source"} <= set(headline[figure])
    assert list((folder / "figures").glob("*.svg"))


def test_every_job_leaves_a_log_and_its_peak_memory(project):
    logs = project.folder / "results/logs"
    logged = {path.parent.name for path in logs.glob("*/*.log")}
    assert {"model", "texts", "capture", "sketch", "frontier", "report"} <= logged <= set(Config.model_fields)
    assert {path.with_suffix(".log") for path in logs.glob("*/*.tsv")} == set(logs.glob("*/*.log"))


def test_no_temporary_file_is_left(project):
    assert not list((project.folder / "results").rglob(".*.part"))


def test_a_second_run_does_nothing_quickly(project):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    said = project.snakemake("--", *STAGES, "report", "capture", "sketch", fresh=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert "Nothing to be done" in said.stderr + said.stdout
    # Seconds of computing, as those on the clock depend on what else the machine does.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 10


def test_a_single_file_can_be_made_by_name(project):
    assert project.planned("--force", "--", "results/sketch/layer_01/records.parquet") == {"sketch_layer": 1}


def test_a_dry_run_gives_reasons(project):
    said = project.snakemake("--dry-run", "--forcerun", "sketch_layer").stdout
    assert "reason: Forced execution" in said
    assert "Input files updated by another job" in said


def test_snakemakes_own_report_needs_no_network(project):
    target = project.folder / "results/report/snakemake.html"
    project.snakemake("--report", str(target))
    page = target.read_text()
    assert "RESULTS.md" in page
    assert not re.findall(r"<(?:script|link|img)[^>]+(?:src|href)=[\"']?(?:https?:)?//[^>]*>", page)
    target.unlink()


def test_a_script_runs_in_this_process_for_a_debugger(project):
    mock = [sys.executable, str(project.root / "workflow/mock_snakemake.py"), "gather_frontier"]
    config = ["--configfile", "tests/config/tiny.yaml"]
    subprocess.run([*mock, *config], cwd=project.folder, check=True, capture_output=True)
