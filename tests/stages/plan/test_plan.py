"""The plan as a table and a text, what it warns of, and its comparison with a run."""

from __future__ import annotations

import os
from pathlib import Path

import polars as pl
import pytest
import yaml

from ghostkv.config.experiment import Config
from ghostkv.files.errors import ConfigError
from ghostkv.stages.plan import __main__ as refit
from ghostkv.stages.plan.compare import compared_rows
from ghostkv.stages.plan.costs import Speeds, cost_of, disk_gb
from ghostkv.stages.plan.finished import ended_jobs
from ghostkv.stages.plan.fit import FinishedRun, fitted
from ghostkv.stages.plan.jobs import ComparePlan, PlanRun
from ghostkv.stages.plan.machine import measure_machine, speeds_of
from ghostkv.stages.plan.plan import plan_run
from ghostkv.stages.plan.planning import workload
from ghostkv.stages.plan.rates import REFERENCE
from ghostkv.stages.run import Run

ROOT = Path(__file__).parents[3]
LARGE = ROOT / "resources/configs/llama-3.1-8b-128k.yaml"
LONG = ROOT / "resources/configs/long.yaml"


def run_of(config: Path, monkeypatch, **sections) -> Run:
    monkeypatch.chdir(ROOT)
    return Run.resolve(yaml.safe_load(config.read_text()) | sections, "resources")


def planned(run: Run, folder: Path) -> tuple[pl.DataFrame, str]:
    """The table and the text of a plan; results would lie in `folder`."""
    job = PlanRun.read({**vars(PlanRun.of(run)), "folder": str(folder / "results")})
    outputs = {"plan": str(folder / "plan.parquet"), "text": str(folder / "plan.txt")}
    plan_run(job, {}, outputs)
    return pl.read_parquet(outputs["plan"]), (folder / "plan.txt").read_text()


def test_the_long_run_asks_for_all_that_its_model_takes(monkeypatch):
    run = run_of(LONG, monkeypatch)
    bands = run.config.capture.query_bands
    assert run.longest == run.model.max_context == bands[-1].stop == 32768
    # Every length is measured by certificates too, which take late queries alone.
    assert run.config.frontier.headline_start == bands[0].start
    assert [band.stop for band in bands] == [4096, 8192, 16384, 32768]
    edges = run.config.calibrated.bands
    assert {(band.start, band.stop) for band in bands} <= {*zip(edges, edges[1:], strict=False)}


def test_the_run_beside_it_asks_for_the_same_positions_as_far_as_its_model_takes(monkeypatch):
    run, long = (run_of(path, monkeypatch) for path in (LONG.with_name("long_8k.yaml"), LONG))
    assert run.config.model.name != long.config.model.name
    assert run.longest == run.model.max_context == 8192
    bands = long.config.capture.query_bands
    assert run.config.capture.query_bands == [band for band in bands if band.stop <= run.longest]
    for name in ("texts", "certificates"):
        assert getattr(run.config, name) == getattr(long.config, name)
    # `make long` leaves each in results/{name}/results, and works there.
    beside = Path(os.path.normpath(Path("results/long_8k") / run.config.report.beside))
    assert beside == Path("results/long/results")


def test_a_model_that_is_not_here_is_planned_from_its_config(tmp_path, monkeypatch):
    table, said = planned(run_of(LARGE, monkeypatch), tmp_path)
    assert set(table["stage"]) == {*Config.model_fields} - {"plan"}
    by_stage = {row["stage"]: row for row in table.iter_rows(named=True)}
    # Bytes of K and V of three texts, and 16-bit weights: these are arithmetic.
    kv = 2 * 131072 * 8 * 128 * 32 * 2 / 1e9
    assert by_stage["capture"]["disk_gb"] == pytest.approx(3 * kv, rel=0.1)
    assert by_stage["model"]["download_gb"] == pytest.approx(16.06, abs=0.01)
    assert by_stage["quality"]["memory_gb"] > 16.06 + kv
    assert all(row["cpu_seconds"] >= row["longest_cpu_seconds"] > 0 for row in by_stage.values())
    # The GPU's memory is arithmetic too; its time is not known, and nothing claims it.
    assert f"{16.06 + kv:.2f}" in said
    assert "is not measured" in said
    assert "ASSUMED" not in said


def test_little_disk_and_little_memory_are_said_and_enough_is_not(tmp_path, monkeypatch):
    def warned(**machine: float) -> tuple[bool, bool]:
        _, said = planned(run_of(ROOT / "tests/config/tiny.yaml", monkeypatch, plan=machine), tmp_path)
        return "DISK IS SHORT" in said, "MEMORY IS SHORT" in said

    assert warned(disk_gb=1e3, memory_gb=1e3) == (False, False)
    assert warned(disk_gb=1e-3, memory_gb=1e3) == (True, False)
    assert warned(disk_gb=1e3, memory_gb=0.1) == (False, True)


def test_what_nothing_states_is_told(tmp_path, monkeypatch):
    model = {"name": "mine", "custom": {"source": "hub", "id": "a/b", "layers": 2, "head_dim": 64}}
    _, said = planned(run_of(ROOT / "tests/config/tiny.yaml", monkeypatch, model=model), tmp_path)
    assert "ASSUMED" in said
    assert "heads: 32" in said


def test_a_machine_is_measured_in_cpu_seconds_of_one_core():
    measured = measure_machine()
    assert measured.keys() == REFERENCE.keys()
    assert all(value > 0 for value in measured.values())
    assert speeds_of({name: 2 * value for name, value in REFERENCE.items()}) == Speeds(2.0, 2.0, 2.0)


@pytest.fixture
def finished(tmp_path, monkeypatch) -> ComparePlan:
    """A run of the tiny config whose jobs took one and a half times what is planned of them, with half of the disk."""
    job = ComparePlan.of(run_of(ROOT / "tests/config/tiny.yaml", monkeypatch))
    job = ComparePlan.read({**vars(job), "folder": str(tmp_path / "results")})
    for one in job.jobs:
        cost = cost_of(one.rates, one.terms)
        took = [1.0, 1.0, 1.5 * cost.cpu_seconds, 1500 * cost.memory_gb, 2]
        for log in one.logs:
            path = tmp_path / "results/logs" / one.stage / f"{log}.tsv"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("begun\ts\tcpu_time\tmax_rss\tcores\n" + "\t".join(map(str, took)) + "\n")
    folder = tmp_path / "results/capture/text"
    folder.mkdir(parents=True)
    (folder / "kv.parquet").write_bytes(bytes(int(disk_gb("capture", job.disk["capture"]) * 0.5e9)))
    return job


def test_a_run_is_compared_stage_by_stage_with_its_plan(finished):
    rows = compared_rows(finished, Speeds())
    ratios = {(row["stage"], row["quantity"]): row["ratio"] for row in rows}
    assert ratios.pop(("capture", "disk_gb")) == pytest.approx(2, rel=1e-3)
    # The report reads what is compared, so its own job is still to come.
    assert {stage for stage, _ in ratios} == {*Config.model_fields} - {"plan", "report"}
    assert all(ratio == pytest.approx(1 / 1.5, rel=1e-3) for ratio in ratios.values())
    assert next(row["jobs"] for row in rows if row["stage"] == "capture") == 3


def test_a_stage_that_did_not_end_is_compared_by_the_jobs_that_did(finished):
    Path(finished.folder, "logs/capture/prose_codec_0.tsv").unlink()
    rows = [row for row in compared_rows(finished, Speeds()) if row["stage"] == "capture"]
    assert {row["quantity"]: row["jobs"] for row in rows} == {"cpu_seconds": 2, "memory_gb": 2}
    assert all(row["ratio"] == pytest.approx(1 / 1.5, rel=1e-3) for row in rows)


def test_rates_are_fitted_on_what_jobs_took(finished, monkeypatch):
    work = workload(run_of(ROOT / "tests/config/tiny.yaml", monkeypatch))
    rates, disk = fitted([FinishedRun(work, Path(finished.folder))])
    for job, usage in ended_jobs(finished.jobs, Path(finished.folder)):
        guessed = sum(rates[job.rates]["cpu"].get(name, 0.0) * value for name, value in job.terms.cpu.items())
        assert guessed == pytest.approx(usage.cpu_time, rel=0.25), job
    measured = disk_gb("capture", finished.disk["capture"]) / 2
    # Nobody believes that captures take half of their numbers: the least that arithmetic allows is kept.
    assert disk["capture"]["captured"] >= 1.0
    assert (
        sum(
            disk["capture"][name] * value
            for name, value in finished.disk["capture"].items()
            if name in disk["capture"]
        )
        > measured
    )


def test_rates_are_refused_where_there_is_no_finished_run(tmp_path):
    with pytest.raises(ConfigError, match="no finished run"):
        refit.finished_run(f"{tmp_path}=config.yaml")
    with pytest.raises(ConfigError, match="no finished run"):
        refit.finished_run("results")
