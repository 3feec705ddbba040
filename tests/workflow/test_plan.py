"""`snakemake plan` on the real workflow, and the tiny run beside its plan."""

from __future__ import annotations

import json
from dataclasses import replace

import pyarrow.parquet as pq

from ghostkv.config.experiment import Config
from ghostkv.config.words import read_yaml
from ghostkv.stages.plan.planning import planned_jobs, workload
from ghostkv.stages.run import Run
from tests.workflow.conftest import ROOT


def test_a_plan_is_told_each_time_and_nothing_is_fetched_for_it(project, tmp_path):
    fresh = replace(project, folder=tmp_path)
    (tmp_path / "tests").symlink_to(ROOT / "tests")
    for _ in range(2):
        said = fresh.snakemake("--", "plan").stdout
        assert {line.split()[0] for line in said.splitlines() if line.strip()} >= {*Config.model_fields} - {
            "plan"
        }
    assert not (tmp_path / "resources").exists()
    assert pq.read_metadata(tmp_path / "results/plan/plan.parquet").num_rows == len(Config.model_fields) - 1


def test_the_tiny_run_is_as_its_plan_says(project):
    rows = pq.read_table(project.folder / "results/plan/compared.parquet").to_pylist()
    assert {"capture", "sketch", "frontier", "peers"} <= {row["stage"] for row in rows}
    for row in rows:
        # A fresh clone compiles loops as well, which no plan counts and which is most of what a run this small takes.
        least = 0.03 if row["quantity"] == "cpu_seconds" else 1 / 1.5
        # Seconds are those of a busy machine, and of jobs that hardly take one.
        assert least < row["ratio"] < (3 if row["quantity"] == "cpu_seconds" else 1.5), row
    figure = json.loads((project.folder / "results/report/headline.json").read_text())["plan.worst_ratio"]
    assert figure["value"] >= 1
    assert figure["n"] == len(rows)


def test_every_job_of_the_plan_has_its_log(project):
    work = workload(Run.resolve(read_yaml(ROOT / "tests/config/tiny.yaml"), ROOT / "resources"))
    planned = {(job.stage, log) for job in planned_jobs(work) for log in job.logs}
    logs = {(path.parent.name, path.stem) for path in (project.folder / "results/logs").glob("*/*.tsv")}
    assert {log for log in logs if log[0] != "plan"} <= planned
