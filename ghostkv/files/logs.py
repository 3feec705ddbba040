"""One place where a job's output goes: its log file. Its progress goes to the terminal, if there is one."""

from __future__ import annotations

import logging
import os
import sys
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from ghostkv.files.errors import GhostKVError

if TYPE_CHECKING:
    from tqdm import tqdm

# Each library has a pool of its own and reads its size once, when it is first imported.
_POOLS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "POLARS_MAX_THREADS",
    "RAYON_NUM_THREADS",
)
# Seconds between two drawings of a bar, and between two lines of a log.
_BAR, _LINE = 1.0, 10.0
# Where standard error led before a job's output went to its log.
_terminal: TextIO | None = None


def progress(
    iterable: Iterable | None = None, total: float | None = None, desc: str = "", unit: str = "it"
) -> tqdm:
    """A tqdm bar for work that takes long: iterate over it, or call `update` inside `with`.

    On a terminal it is a bar of one line, also while the job's output goes to its log; bars of jobs side by
    side take turns on that line, and each goes when it is done. Elsewhere it is a line every few seconds, in the
    log if there is one.

    Parameters
    ----------
    total : float, optional
        How much there is to do, where `iterable` does not say.
    """
    # A job sets the threads of its libraries before it imports any.
    from tqdm import tqdm

    stream = _terminal or sys.stderr
    drawn = stream.isatty()
    # Terminals of containers may not say how large they are, and tqdm draws nothing on one of no size.
    fits = drawn and all(os.get_terminal_size(stream.fileno()))
    return tqdm(
        iterable,
        total=total,
        desc=desc,
        unit=unit,
        file=stream if drawn else _Lines(),
        leave=not drawn,
        mininterval=_BAR if drawn else _LINE,
        ncols=None if fits else 100,
        dynamic_ncols=fits,
    )


class _Lines:
    """What tqdm draws over and over, as lines of standard error, which is the log inside a job."""

    encoding = "utf-8"

    def write(self, text: str) -> None:
        if line := text.strip("\r\n ").rstrip():
            print(line, file=sys.stderr, flush=True)

    def flush(self) -> None:
        sys.stderr.flush()


@contextmanager
def job(snakemake: Any) -> Iterator[None]:
    """Run a workflow script: threads as the rule states, all output into `snakemake.log[0]`.

    Everything goes there: Python's streams, those of native libraries, warnings and tracebacks. A
    `GhostKVError` leaves its message alone, as that says what to do. Only `progress` still finds the terminal.
    Import what the job needs inside the block, after the pools are set.

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
    _remove_leftovers(snakemake.output)
    if not snakemake.log:
        yield
        return
    path = Path(snakemake.log[0])
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8", buffering=1) as log, _kept_terminal():
        for stream, descriptor in ((sys.stdout, 1), (sys.stderr, 2)):
            stream.flush()
            os.dup2(log.fileno(), descriptor)
        sys.stdout = sys.stderr = log
        logging.basicConfig(stream=log, level=logging.INFO, format="%(asctime)s %(message)s", force=True)
        try:
            yield
        except GhostKVError as error:
            print(error, file=log)
            _leave()
        except BaseException:
            traceback.print_exc(file=log)
            _leave()
        finally:
            sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__


@contextmanager
def _kept_terminal() -> Iterator[None]:
    """Keep standard error as it is now for `progress`, if it is a terminal."""
    global _terminal
    if not os.isatty(2):
        yield
        return
    with os.fdopen(os.dup(2), "w", encoding="utf-8") as _terminal:
        try:
            yield
        finally:
            _terminal = None


def _leave() -> None:
    # `from None`: the log holds the whole story, Snakemake shows the log.
    raise SystemExit(1) from None


def _remove_leftovers(outputs: Any) -> None:
    """Temporary files that a killed run of this job left beside its outputs; see `ghostkv.files.io.atomic_path`."""
    for output in map(Path, outputs):
        for leftover in output.parent.glob(f".{output.name}.*.part"):
            with suppress(OSError):
                leftover.unlink()
