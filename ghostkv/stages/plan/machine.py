"""This machine measured in a second: how long a start, a product of matrices and a pass over memory take on it."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from statistics import median

import numpy as np

from ghostkv.files.usage import Usage
from ghostkv.stages.plan.costs import Speeds
from ghostkv.stages.plan.rates import REFERENCE

_WIDTH = 768
# float32 numbers of an array that no cache holds.
_NUMBERS = 16 << 20
_REPEATS = 5
# What the jobs' starts are made of, without anything of the lab's own.
_STARTED = "import numpy, polars, pyarrow.parquet, pydantic, scipy.linalg"


def measure_machine() -> dict[str, float]:
    """CPU seconds of a start, of a product of matrices, and of a pass over memory; medians.

    CPU seconds, and not seconds of the clock: whatever else runs here takes turns with it and is left out.
    """
    generator = np.random.default_rng(0)
    left, right = generator.random((2, _WIDTH, _WIDTH), np.float32)
    numbers, written = np.zeros(_NUMBERS, np.float32), np.zeros(_NUMBERS, np.float32)
    return {
        "start": median(_started() for _ in range(2)),
        "compute": _timed(lambda: left @ right),
        "memory": _timed(lambda: np.add(numbers, 1.0, out=written)),
    }


def speeds_of(measured: dict[str, float]) -> Speeds:
    """What was measured, over what it was on the machine of the rates."""
    return Speeds(**{name: measured[name] / REFERENCE[name] for name in measured})


def _timed(work: Callable[[], object]) -> float:
    work()
    taken = []
    for _ in range(_REPEATS):
        begun = time.process_time()
        work()
        taken.append(time.process_time() - begun)
    return median(taken)


def _started() -> float:
    before = Usage.so_far(time.time()).cpu_time
    subprocess.run([sys.executable, "-c", _STARTED], check=True)
    return Usage.so_far(time.time()).cpu_time - before
