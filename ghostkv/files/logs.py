"""One place where a job's output goes: its log file."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

from ghostkv.files.errors import DISK_FULL, GhostKVError
from ghostkv.files.processes import lives

_BEGUN = time.time()
# Each library has a pool of its own and reads its size once, when it is first imported.
_POOLS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "POLARS_MAX_THREADS",
    "RAYON_NUM_THREADS",
)


@contextmanager
def job(snakemake: Any) -> Iterator[None]:
    """Run a workflow script: threads as the rule states, all output into `snakemake.log[0]`.

    What a job took that ended well stands beside the log (`ghostkv.files.usage`).
    Everything else goes into the log: Python's streams, those of native libraries, warnings and tracebacks. A
    `GhostKVError` leaves its message alone, as that says what to do. Import what the job needs
    inside the block, after the pools are set.

    Parameters
    ----------
    snakemake : object
        What Snakemake (or `workflow/mock_snakemake.py`) puts into a script; its log, output and threads are used.

    Raises
    ------
    SystemExit
        With status 1, when the block fails.
    """
    os.environ.update(dict.fromkeys(_POOLS, str(snakemake.threads)))
    _end_with_the_run()
    _remove_leftovers(snakemake.output)
    if not snakemake.log:
        yield
        return
    path = Path(snakemake.log[0])
    path.parent.mkdir(parents=True, exist_ok=True)
    usage = path.with_suffix(".tsv")
    usage.unlink(missing_ok=True)
    with _log(path) as log, os.fdopen(os.dup(2), "w") as screen:
        for stream, descriptor in ((sys.stdout, 1), (sys.stderr, 2)):
            stream.flush()
            os.dup2(log.fileno(), descriptor)
        sys.stdout = sys.stderr = log
        logging.basicConfig(stream=log, level=logging.INFO, format="%(asctime)s %(message)s", force=True)
        try:
            yield
            # Not above: it imports what sets up pools of threads.
            from ghostkv.files.usage import Usage

            Usage.so_far(_BEGUN).write(usage)
        except BaseException as error:
            _say(_told(error), log, screen)
            raise SystemExit(130 if isinstance(error, KeyboardInterrupt) else 1) from None
        finally:
            sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__


@contextmanager
def _log(path: Path) -> Iterator[TextIO]:
    """A log, written line by line, of which what a full disk did not take is let go in the end."""
    log = open(path, "w", encoding="utf-8", buffering=1)  # noqa: SIM115 (closing it may fail)
    try:
        yield log
    finally:
        with suppress(OSError):
            log.close()


def _told(error: BaseException) -> str:
    """What the log says of an error: a message for the user alone, the whole story of any other."""
    if isinstance(error, GhostKVError):
        return str(error)
    if isinstance(error, KeyboardInterrupt):
        return "Interrupted."
    # Libraries of other languages raise errors of their own, which quote the system's.
    if any(os.strerror(code) in str(error) for code in DISK_FULL):
        return f"{error}\nNothing half-written is left. Free some space; the same command resumes the run."
    return traceback.format_exc()


def _say(text: str, log: TextIO, screen: TextIO) -> None:
    """Write to the log, or to where errors went before, if the disk takes no word more."""
    try:
        log.write(f"{text}\n")
        log.flush()
    except OSError:
        print(text, file=screen, flush=True)


def _end_with_the_run() -> None:
    """Let this process end when the Snakemake that started it is gone: another one may soon write the same files."""
    run = json.loads(os.environ.get("GHOSTKV_RUN", "null"))

    def watch() -> None:
        while lives(run) is not False:
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGKILL)

    if run and lives(run):
        threading.Thread(target=watch, daemon=True).start()


def _remove_leftovers(outputs: Any) -> None:
    """Temporary files that a killed run of this job left beside its outputs; see `ghostkv.files.io.atomic_path`."""
    for output in map(Path, outputs):
        for leftover in output.parent.glob(f".{output.name}.*.part"):
            with suppress(OSError):
                leftover.unlink()
