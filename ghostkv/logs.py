"""One place where a job's output goes: its log file."""

from __future__ import annotations

import logging
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ghostkv.errors import GhostKVError

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

    Everything goes there: Python's streams, those of native libraries, warnings and tracebacks. A
    `GhostKVError` leaves its message alone, as that says what to do. Import what the job needs inside the
    block, after the pools are set.

    Parameters
    ----------
    snakemake : object
        What Snakemake (or `workflow/mock_snakemake.py`) puts into a script; its log, output and threads are
        used.

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
    with open(path, "w", encoding="utf-8", buffering=1) as log:
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


def _leave() -> None:
    # `from None`: the log holds the whole story, Snakemake shows the log.
    raise SystemExit(1) from None


def _remove_leftovers(outputs: Any) -> None:
    """Temporary files that a killed run of this job left beside its outputs; see `ghostkv.io.atomic_path`."""
    for output in map(Path, outputs):
        for leftover in output.parent.glob(f".{output.name}.*.part"):
            with suppress(OSError):
                leftover.unlink()
