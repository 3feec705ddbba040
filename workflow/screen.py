"""What a run shows: a line for each finished job, and last of all why a job failed. On a terminal, the stages at work stand below.

Snakemake finds plugins for its output before it reads a Snakefile or a profile, and so only where they are installed.
This one comes with the Snakefile, which puts it in the place of Snakemake's own handler. Snakemake's log has everything.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TextIO

from snakemake.exceptions import LockException
from snakemake_interface_logger_plugins.common import LogEvent

from ghostkv.report.sentences import closing
from workflow.failures import Shown, explain, interrupted, named

# What Snakemake says at every run, and nobody acts on. Any other message is shown.
_NOISE = (
    "Assuming unrestricted shared filesystem",
    "Building DAG",
    "Complete log(s)",
    "Conda environments: ignored",
    "Elapsed time",
    "Exiting because a job execution failed",
    "Job rate limit reached",
    "Select jobs to execute",
    "Shutting down",
    "Using shell",
)
_NOISY = {LogEvent.WORKFLOW_STARTED, LogEvent.RESOURCES_INFO, LogEvent.SHELLCMD, LogEvent.JOB_STARTED}
_NOISY |= {LogEvent.DEBUG_DAG, LogEvent.RULEGRAPH, LogEvent.GROUP_INFO}
_BAR = 16


@dataclass
class Stage:
    """All jobs of one rule."""

    total: int = 0
    done: int = 0
    begun: float | None = None


class Screen(logging.Handler):
    """Snakemake's events as lines for a person.

    Parameters
    ----------
    stream : file
        Where to write; stages at work are drawn if it is a terminal.
    steps : bool
        Whether finished jobs and stages are shown; what went wrong always is.
    hint : str
        What to add where Snakemake finds the folder locked.
    pages : mapping of str to str
        Rules that write what a run ends with: the folder of a report, or a text.
    """

    def __init__(
        self,
        stream: TextIO = sys.stderr,
        steps: bool = True,
        hint: str = "",
        pages: Mapping[str, str] | None = None,
    ):
        super().__init__()
        self._pages, self._made = pages or {}, ""
        self._stream, self._steps, self._hint = stream, steps, hint
        self._drawn, self._height = steps and stream.isatty(), 0
        self._begun = time.monotonic()
        self._jobs: dict[int, Shown] = {}
        self._stages: dict[str, Stage] = {}
        self._finished: list[Shown] = []
        self._failed: list[tuple[Shown, str]] = []
        # Snakemake says in one message how a script ended and in the next of its thread which job that was.
        self._ended: dict[int | None, str] = {}
        # Jobs of groups that failed as one, of which Snakemake tells once more one by one.
        self._grouped: set[int] = set()
        self._over = threading.Event()
        self._clock = threading.Thread(target=self._tick, daemon=True)
        if self._drawn:
            self._clock.start()

    def emit(self, record: logging.LogRecord) -> None:
        event = getattr(record, "event", None)
        try:
            if show := getattr(self, f"_{event}", None) if event else None:
                show(record)
            elif event not in _NOISY:
                self._message(record)
        except Exception:
            self.handleError(record)

    def close(self) -> None:
        """Say last why jobs failed, or else what came out."""
        if self._over.is_set():
            return
        self._over.set()
        with self.lock:
            self._erase()
            for text in self._ended.values():
                self._write(text)
            if self._failed and all(interrupted(end) for _, end in self._failed):
                self._write("Stopped. The same command goes on from here.")
            else:
                for job, end in self._failed:
                    self._write(f"\n{explain(job, end)}")
            if self._made and self._steps and not self._failed:
                self._write(f"\n{closing(self._made)}  ({_clock(time.monotonic() - self._begun)})")
        super().close()

    def _message(self, record: logging.LogRecord) -> None:
        text = str(record.msg or "").strip("\n")
        if text and not (record.levelno <= logging.ERROR and text.startswith(_NOISE)):
            self._write(text)

    def _error(self, record: logging.LogRecord) -> None:
        text, kind = str(record.msg), record.exception
        if kind == "RuleException" and "CalledProcessError" in text:
            self._ended[record.thread] = text
        elif not (self._failed and "At least one job did not complete" in text):
            self._write(text)
        if kind == LockException.__name__ and self._hint:
            self._write(self._hint)
        if late := re.search(r"older modification time .* than input (.+?) \(\d{4}-", text):
            self._write(f"{late[1]} bears a time that has not come. Write: touch '{late[1]}'")

    def _run_info(self, record: logging.LogRecord) -> None:
        counts = {rule: count for rule, count in record.stats.items() if rule != "total"}
        self._stages = {rule: Stage(count) for rule, count in counts.items()}
        if self._steps:
            jobs = ", ".join(rule if count == 1 else f"{count} {rule}" for rule, count in counts.items())
            total = record.stats["total"]
            self._write(f"{total} {'job' if total == 1 else 'jobs'}: {jobs}")

    def _job_info(self, record: logging.LogRecord) -> None:
        memory = record.resources.get("mem_mb")
        known = memory if isinstance(memory, int) else None  # else Snakemake is yet to find it out
        job = Shown(record.rule_name, dict(record.wildcards or {}), list(record.log or ()), known)
        self._jobs[record.jobid] = job
        stage = self._stages.setdefault(job.rule, Stage())
        stage.begun = stage.begun or job.begun
        self._draw()

    def _job_finished(self, record: logging.LogRecord) -> None:
        if job := self._jobs.pop(record.job_id, None):
            self._stages[job.rule].done += 1
            self._made = self._pages.get(job.rule, self._made)
            self._finished.append(job)

    def _progress(self, record: logging.LogRecord) -> None:
        """Snakemake counts the jobs after it has named the finished ones."""
        width = len(str(record.total))
        first = record.done - len(self._finished) + 1
        for number, job in enumerate(self._finished, first):
            if self._steps:
                spent = _clock(time.monotonic() - job.begun)
                so_far = _clock(time.monotonic() - self._begun)
                self._write(f"{so_far:>8}  {number:>{width}}/{record.total}  {job}  ({spent})")
        self._finished.clear()

    def _group_error(self, record: logging.LogRecord) -> None:
        """Of jobs that were submitted as one, those that its log names have failed; where it names none, all of them."""
        logs = [log for log in record.aux_logs if log]
        jobs = [
            self._popped(found["jobid"], found["rule_name"], found["log"]) for found in record.job_error_info
        ]
        self._grouped |= {found["jobid"] for found in record.job_error_info}
        failed = [job for job in jobs if named(job.rule, job.logs, logs)] or [
            Shown(f"group {record.groupid}", {}, [], None)
        ]
        for job in failed:
            job.logs += logs
            self._fail(job, "")

    def _job_error(self, record: logging.LogRecord) -> None:
        if record.jobid in self._grouped:
            return
        job = self._popped(record.jobid, record.rule_name, record.log)
        self._fail(job, self._ended.pop(record.thread, ""))

    def _popped(self, number: int, rule: str, logs: list[str] | None) -> Shown:
        job = self._jobs.pop(number, None) or Shown(rule, {}, [], None)
        job.logs = list(logs or ())
        return job

    def _fail(self, job: Shown, end: str) -> None:
        self._failed.append((job, end))
        if not interrupted(end):
            rest = f"; {len(self._jobs)} of those at work end first" if self._jobs else ""
            self._write(f"{job} failed{rest}")

    def _write(self, text: str) -> None:
        self._erase()
        self._stream.write(f"{text}\n")
        self._draw()
        self._stream.flush()

    def _tick(self) -> None:
        while not self._over.wait(1):
            with self.lock:
                self._erase()
                self._draw()
                self._stream.flush()

    def _erase(self) -> None:
        if self._height:
            self._stream.write(f"\x1b[{self._height}A\r\x1b[J")
            self._height = 0

    def _draw(self) -> None:
        """A line for each stage at work, below all else; the next line that is written takes their place."""
        if not self._drawn or self._over.is_set():
            return
        self._erase()
        try:
            columns = os.get_terminal_size(self._stream.fileno()).columns or 100
        except OSError:
            columns = 100
        at_work: dict[str, list[Shown]] = {}
        for job in self._jobs.values():
            at_work.setdefault(job.rule, []).append(job)
        for rule, jobs in at_work.items():
            self._stream.write(_line(rule, self._stages[rule], jobs)[: columns - 1] + "\n")
        self._height = len(at_work)
        self._stream.flush()


def _line(rule: str, stage: Stage, jobs: list[Shown]) -> str:
    """A stage at work: how far it is, how long it has taken and will take, and its jobs."""
    shares = [job.done() for job in jobs]
    share = min((stage.done + sum(filter(None, shares))) / max(stage.total, 1), 1)
    spent = time.monotonic() - (stage.begun or time.monotonic())
    left = f", {_clock(spent / share - spent)} left" if share else ""
    bar = "━" * round(share * _BAR)
    which = ", ".join(
        job.which + ("" if done is None else f" {done:.0%}") for job, done in zip(jobs, shares, strict=True)
    )
    return f"{rule:<18} {bar:─<{_BAR}} {stage.done}/{stage.total}  {_clock(spent)}{left}  {which}"


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def show(workflow: Any, hint: str, pages: Mapping[str, str]) -> None:
    """Let a run that works be shown by a `Screen`; dry runs and those that ask for more keep Snakemake's own words."""
    settings = workflow.output_settings
    quiet = {str(kind) for kind in settings.quiet or ()}
    asked = settings.dryrun or settings.verbose or settings.debug_dag or settings.printshellcmds
    logger = workflow.logger_manager.logger
    own = [handler for handler in logger.handlers if handler.name == "DefaultStreamHandler"]
    if asked or "all" in quiet or not own:
        return
    logger.removeHandler(own[0])
    logger.addHandler(Screen(sys.stderr, "progress" not in quiet, hint, pages))
