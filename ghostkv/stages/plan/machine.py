"""This machine measured in seconds: how long a start, a product of matrices and a pass over memory take on it."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Mapping

from ghostkv.stages.plan.costs import Speeds
from ghostkv.stages.plan.rates import REFERENCE

# What the jobs' starts are made of, without anything of the lab's own.
_START = "import numpy, polars, pyarrow.parquet, pydantic, scipy.linalg"
# A product that caches hold, and a pass over arrays that they do not; the least of 20, which other programs disturb least.
_PROBE = """
import json, time
import numpy as np
left, right = np.random.default_rng(0).random((2, 768, 768), np.float32)
numbers, written = np.zeros((2, 8 << 20), np.float32)
def timed(work):
    work()
    taken = []
    for _ in range(20):
        begun = time.process_time()
        work()
        taken.append(time.process_time() - begun)
    return min(taken)
compute, memory = timed(lambda: left @ right), timed(lambda: np.add(numbers, 1.0, out=written))
print(json.dumps({"compute": compute, "memory": memory}))
"""
# As jobs have: one thread of each pool.
_POOLS = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


def measure_machine() -> dict[str, float]:
    """CPU seconds of a start, of a product of matrices, and of a pass over memory.

    CPU seconds, and not seconds of the clock: whatever else runs here takes turns with it and is left out.
    """
    started = min(_started() for _ in range(2))
    return {"start": started, **json.loads(_child(_PROBE))}


def speeds_of(measured: Mapping[str, float]) -> Speeds:
    """What was measured, over what it was on the machine of the rates."""
    return Speeds(**{name: value / REFERENCE[name] for name, value in measured.items()})


def _child(code: str) -> str:
    environment = os.environ | _POOLS
    return subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, env=environment
    ).stdout


def _started() -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    _child(_START)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
