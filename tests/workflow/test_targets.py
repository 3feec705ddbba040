"""Each stage beyond the frontier is a target of its own, with its chapter of the report."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ghostkv.report.jobs import BEYOND

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("stage", BEYOND)
def test_the_target_of_a_stage_asks_for_its_tables_and_the_report(stage):
    target = re.search(
        rf"^rule {stage}:\n    input:\n((?: +.*\n)+)", (ROOT / "Snakefile").read_text(), re.MULTILINE
    )
    wanted = [line.strip() for line in target[1].splitlines()]
    assert wanted == [f'target("{stage}"),', "rules.report.output,"]


# Asked of the real Snakemake for two of them only: a dry run takes seconds.
@pytest.mark.parametrize("stage", ["bandwidth", "retrieval"])
def test_a_target_runs_its_stage_and_the_report_and_no_other_stage(project, stage):
    rules = re.findall(
        r"^(?:rule|use rule \w+ as) (\w+)", (ROOT / f"workflow/rules/{stage}.smk").read_text(), re.MULTILINE
    )
    # The tiny run has no long tasks.
    assert project.planned("--", stage).keys() == {stage, "compare_plan", "report", *rules} - {
        "retrieval_task"
    }
