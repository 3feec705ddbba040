"""What a run shows: finished jobs by name, stages at work on a terminal, and last of all why a job failed."""

from __future__ import annotations

import io
import json
import logging
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from snakemake_interface_logger_plugins.common import LogEvent

from workflow.failures import Shown, explain
from workflow.screen import Screen

ROOT = Path(__file__).parents[2]
RESOURCES = {"mem_mb": 2000}


class Terminal(io.StringIO):
    def isatty(self):
        return True


def say(screen: Screen, event: LogEvent | None = None, text: str = "", thread: int = 1, **more) -> None:
    record = logging.makeLogRecord({"msg": text, "levelno": logging.INFO, "thread": thread, **more})
    if event:
        record.event = event
    screen.handle(record)


def begin(screen: Screen, number: int, layer: str, log: Path | str = "none.log") -> None:
    named = {"rule_name": "sweep_layer", "wildcards": {"layer": layer}, "log": [str(log)]}
    say(screen, LogEvent.JOB_INFO, jobid=number, resources=RESOURCES, **named)


def fail(screen: Screen, number: int, log: Path | str, end: str, thread: int = 1) -> None:
    text = f"RuleException:\nCalledProcessError in file \"x.smk\", line 1:\nCommand 'python' {end}."
    say(screen, LogEvent.ERROR, text, thread, exception="RuleException")
    say(screen, LogEvent.JOB_ERROR, thread=thread, jobid=number, rule_name="sweep_layer", log=[str(log)])


def finish(screen: Screen, number: int, done: int, total: int) -> None:
    say(screen, LogEvent.JOB_FINISHED, job_id=number)
    say(screen, LogEvent.PROGRESS, done=done, total=total)


def test_a_finished_job_says_which_it_was_and_how_many_are_done():
    screen = Screen(shown := io.StringIO())
    say(screen, LogEvent.RUN_INFO, stats={"sweep_layer": 2, "report": 1, "total": 3})
    say(screen, text="Select jobs to execute...")
    begin(screen, 7, "03")
    begin(screen, 8, "04")
    finish(screen, 8, 1, 3)
    finish(screen, 7, 2, 3)
    screen.close()
    jobs, *lines = shown.getvalue().splitlines()
    assert jobs == "3 jobs: 2 sweep_layer, report"
    assert [re.sub(r"\d+:\d\d", "", line).split() for line in lines] == [
        ["1/3", "sweep_layer", "layer=04", "()"],
        ["2/3", "sweep_layer", "layer=03", "()"],
    ]


@pytest.mark.parametrize("broken", [False, True])
def test_a_run_that_made_a_report_ends_with_its_answer_and_its_page(tmp_path, broken):
    figures = {"elimination_at_fer_1pct": 0.965, "bytes_ratio_gqa_at_fer_1pct": 0.129}
    headline = {f"frontier.{name}": {"value": value} for name, value in figures.items()}
    (tmp_path / "headline.json").write_text(json.dumps(headline))
    screen = Screen(shown := io.StringIO(), pages={"sweep_layer": str(tmp_path)})
    say(screen, LogEvent.RUN_INFO, stats={"sweep_layer": 1, "total": 1})
    begin(screen, 7, "03")
    finish(screen, 7, 1, 1)
    if broken:
        begin(screen, 8, "04")
        fail(screen, 8, tmp_path / "none.log", "returned non-zero exit status 3")
    screen.close()
    *_, answer, page = shown.getvalue().splitlines()
    assert ("96.5 %" in answer and page.startswith(f"{tmp_path}/report.html  (0:0")) is not broken


def test_the_messages_of_failed_jobs_come_last(tmp_path):
    (tmp_path / "a.log").write_text(
        "layer 3:  40%|####      | 2/5 [00:01<00:02,  1.0it/s]\nWrite: sinks: 4\n"
    )
    (tmp_path / "b.log").write_text("".join(f"line {number}\n" for number in range(100)))
    screen = Screen(shown := io.StringIO())
    begin(screen, 7, "03", tmp_path / "a.log")
    begin(screen, 8, "04", tmp_path / "b.log")
    begin(screen, 9, "05")
    fail(screen, 7, tmp_path / "a.log", "returned non-zero exit status 1")
    fail(screen, 8, tmp_path / "b.log", "returned non-zero exit status 1", thread=2)
    finish(screen, 9, 1, 3)
    text = "WorkflowError:\nAt least one job did not complete successfully."
    say(screen, LogEvent.ERROR, text, exception="WorkflowError")
    screen.close()
    _, first, second = shown.getvalue().split("\n\n")
    assert first.splitlines()[0].startswith("sweep_layer layer=03 failed")
    assert first.splitlines()[1:] == ["Write: sinks: 4"]
    assert second.splitlines()[1:] == ["...", *(f"line {number}" for number in range(60, 100))]
    assert "CalledProcessError" not in shown.getvalue()


@pytest.mark.parametrize(
    ("end", "said"),
    [
        ("died with <Signals.SIGKILL: 9>", ""),
        ("returned non-zero exit status 137", ""),
        ("returned non-zero exit status 1", "Traceback:\nMemoryError: Unable to allocate 3 GiB\n"),
    ],
    ids=["killed", "killed in a shell", "refused"],
)
def test_a_job_without_memory_names_what_it_states_and_how_to_state_more(tmp_path, end, said):
    (log := tmp_path / "a.log").write_text(said)
    screen = Screen(shown := io.StringIO())
    begin(screen, 7, "03", log)
    fail(screen, 7, log, end)
    screen.close()
    assert "mem_mb=2000" in shown.getvalue()
    assert "--set-resources sweep_layer:mem_mb=4000" in shown.getvalue()


@pytest.mark.parametrize(
    ("said", "failed"),
    [
        ("", ["group layers failed; {slurm} says:", "srun: error"]),
        ("04", ["sweep_layer layer=04 failed; {log} says:", "Write"]),
    ],
    ids=["its node died", "a job of it failed"],
)
def test_of_jobs_submitted_as_one_those_failed_that_its_log_names(tmp_path, said, failed):
    logs = {layer: tmp_path / f"layer_{layer}.log" for layer in ("03", "04")}
    logs["04"].write_text("Write\n" if said else "")
    blocks = (
        f"    Error in rule sweep_layer:\n        jobid: 0\n        log: {logs['04']} (check log file(s))\n"
    )
    (slurm := tmp_path / "7.log").write_text((blocks if said else "") + "srun: error\n")
    screen = Screen(shown := io.StringIO())
    for number, layer in enumerate(logs):
        begin(screen, number, layer, logs[layer])
    jobs = [
        {"jobid": n, "rule_name": "sweep_layer", "log": [str(log)]} for n, log in enumerate(logs.values())
    ]
    say(screen, LogEvent.GROUP_ERROR, groupid="layers", aux_logs=[str(slurm)], job_error_info=jobs)
    for job in jobs:
        say(screen, LogEvent.JOB_ERROR, **job)
    screen.close()
    _, *last = shown.getvalue().split("\n\n")
    assert [text.splitlines() for text in last] == [
        [one.format(slurm=slurm, log=logs["04"]) for one in failed]
    ]


def test_of_several_logs_the_first_that_says_something_is_shown(tmp_path):
    (tmp_path / "job.log").touch()
    (tmp_path / "slurm.log").write_text("Write: sinks: 4\n")
    job = Shown("sweep_layer", {}, [str(tmp_path / "job.log"), str(tmp_path / "slurm.log")], None)
    assert explain(job, "").splitlines()[1:] == ["Write: sinks: 4"]


def test_a_script_that_leaves_no_log_shows_how_it_ended(tmp_path):
    screen = Screen(shown := io.StringIO())
    begin(screen, 7, "03", tmp_path / "none.log")
    fail(screen, 7, tmp_path / "none.log", "returned non-zero exit status 3")
    screen.close()
    assert shown.getvalue().endswith("returned non-zero exit status 3.\n")


def test_jobs_that_ctrl_c_ended_are_no_failures():
    screen = Screen(shown := io.StringIO())
    begin(screen, 7, "03")
    fail(screen, 7, "none.log", "died with <Signals.SIGINT: 2>")
    begin(screen, 8, "04")
    fail(screen, 8, "none.log", "returned non-zero exit status 130")
    screen.close()
    assert "failed" not in shown.getvalue()
    assert len(shown.getvalue().splitlines()) == 1


def test_an_error_that_is_of_no_job_is_shown_whole():
    screen = Screen(shown := io.StringIO())
    say(
        screen,
        LogEvent.ERROR,
        "MissingInputException in rule x:\nnope.txt",
        exception="MissingInputException",
    )
    screen.close()
    assert shown.getvalue() == "MissingInputException in rule x:\nnope.txt\n"


def test_where_steps_are_not_asked_for_failures_are_shown_nevertheless(tmp_path):
    (log := tmp_path / "a.log").write_text("Write: sinks: 4\n")
    screen = Screen(shown := io.StringIO(), steps=False)
    begin(screen, 7, "03", log)
    begin(screen, 8, "04", log)
    finish(screen, 8, 1, 2)
    assert shown.getvalue() == ""
    fail(screen, 7, log, "returned non-zero exit status 1")
    screen.close()
    assert shown.getvalue().endswith("Write: sinks: 4\n")


def test_a_terminal_shows_the_stage_at_work_below_what_is_written(tmp_path):
    screen = Screen(shown := Terminal())
    say(screen, LogEvent.RUN_INFO, stats={"sweep_layer": 2, "total": 2})
    (log := tmp_path / "a.log").write_text("layer 3: 100%|##########| 4/4 [00:02<00:00,  1.0it/s]\n")
    begin(screen, 7, "03", log)
    assert shown.getvalue().endswith("layer=03\n")  # what an earlier run left
    log.write_text("layer 3:  50%|#####     | 2/4 [00:01<00:01,  1.0it/s]\n")
    begin(screen, 8, "04")
    finish(screen, 8, 1, 2)
    before, _, last = shown.getvalue().rpartition("\x1b[J")
    written, stage = last.splitlines()
    assert "1/2  sweep_layer layer=04" in written
    # One of two layers is done and a second is half done.
    assert stage.count("━") / (stage.count("━") + stage.count("─")) == 0.75
    assert stage.endswith("layer=03 50%")
    screen.close()
    assert shown.getvalue().endswith("\x1b[1A\r\x1b[J")


def make_flags() -> list[str]:
    """What `make frontier` gives to snakemake, up to the targets."""
    plan = ["make", "--dry-run", "--silent", "--old-file=.venv/.ready", "frontier", "CORES=2"]
    said = subprocess.run(plan, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    command = shlex.split(next(line for line in said.splitlines() if "bin/snakemake" in line))
    return command[1 : command.index("--")]


@pytest.mark.parametrize("flags", [make_flags(), []], ids=["make", "snakemake"])
def test_a_failing_jobs_own_message_is_the_last_that_is_shown(project, flags):
    run = project.copied_run()
    records = "results/sketch/layer_00/records.parquet"
    (run.folder / records).write_text("cut")
    asked = ["--config", "frontier={sinks: 2}", "--", "results/frontier/layers/layer_00/points.parquet"]
    done = run.snakemake(*flags, *asked, check=False)
    assert done.returncode == 1
    message = (run.folder / "results/logs/frontier/layer_00.log").read_text().strip()
    assert records in message
    assert done.stdout.rstrip().endswith(f":\n{message}")
    assert "CalledProcessError" not in done.stdout
