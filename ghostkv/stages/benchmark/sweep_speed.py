"""Stage `benchmark`, second half: the counting sweep beside loops over thresholds, in one run."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from ghostkv.elimination.attention import MASS_95, MASS_99, TOP_K, softmax
from ghostkv.elimination.grid import Grid
from ghostkv.elimination.sweep import Sweep, sweep
from ghostkv.files import provenance
from ghostkv.files.tables import write_rows
from ghostkv.stages.benchmark.schemas import SPEED_SCHEMA
from ghostkv.stages.benchmark.sweep_loop import sweep_by_loop, sweep_by_theta

if TYPE_CHECKING:
    from ghostkv.stages.benchmark.jobs import SweepSpeed

# The loop is run up to this many thetas; beyond, its cost is known to grow with them and only the sweep's
# matters.
_LOOP_THETAS = 32
_GROUP, _VALUE_DIM = 3, 64


def sweep_speed(job: SweepSpeed, inputs: Mapping[str, str], outputs: Mapping[str, str]) -> None:
    """Time the sweep at several numbers of thetas, with and without the output error, beside the loop.

    The figure to quote is the median of `ratio` at 19 thetas.
    """
    inputs = _attention(job.queries, job.keys, job.seed)
    rows = []
    for thetas in job.thetas:
        theta = np.linspace(-12.0, 2.0, thetas).astype(np.float32)
        for with_output in (False, True):
            rows += _compare(inputs, theta, with_output, job.repeats)
            last = rows[-1]
            print(f"{thetas} thetas, output error {with_output}: {last['sweep_seconds']:.4f} s", flush=True)
    write_rows(rows, outputs["sweep_speed"], SPEED_SCHEMA, provenance.metadata(job.code))


def _compare(inputs: dict, theta: np.ndarray, with_output: bool, repeats: int) -> list[dict]:
    arrays = [inputs[name] for name in ("statistic", "mass", "needed", "start", "stop")]
    output = [inputs["values"], inputs["outputs"]] if with_output else [None, None]
    grid = Grid.of(theta)
    sweep(*arrays, grid, *output)  # compiles
    rows = []
    for repeat in range(repeats):
        fast, seconds = _timed(lambda: sweep(*arrays, grid, *output))
        row = {
            "thetas": len(theta),
            "repeat": repeat,
            "pairs": int(inputs["statistic"].shape[0] * (inputs["stop"] - inputs["start"]).sum()),
            "sweep_seconds": seconds,
            "with_output_error": with_output,
        } | dict.fromkeys(("loop_seconds", "by_theta_seconds", "ratio", "by_theta_ratio", "identical_counts"))
        if len(theta) <= _LOOP_THETAS:
            slow, row["by_theta_seconds"] = _timed(lambda: sweep_by_theta(*arrays, theta, *output))
            row["by_theta_ratio"] = row["by_theta_seconds"] / seconds
            row["identical_counts"] = _same_counts(fast, slow)
            if not with_output:
                slow, row["loop_seconds"] = _timed(lambda: sweep_by_loop(*arrays, theta))
                row["ratio"] = row["loop_seconds"] / seconds
                row["identical_counts"] &= _same_counts(fast, slow)
        rows.append(row)
    return rows


def _timed(work: Callable[[], Sweep]) -> tuple[Sweep, float]:
    before = time.perf_counter()
    result = work()
    return result, time.perf_counter() - before


def _same_counts(one: Sweep, other: Sweep) -> bool:
    names = ("eliminated", "false", "lost_95", "lost_99", "survivors_union")
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in names)


def _attention(queries: int, keys: int, seed: int) -> dict[str, np.ndarray]:
    """Softmax attention of random scores in the later half of a context; its statistic is noisy log mass."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(0.0, 2.0, (_GROUP, queries, keys)).astype(np.float32)
    mass, _ = softmax(scores, dtype=np.float32)
    noise = rng.normal(0.0, 0.5, scores.shape).astype(np.float32)
    rank = np.argsort(np.argsort(-scores, axis=-1), axis=-1)
    flags = (rank < 32) * TOP_K + (rank < keys // 10) * MASS_95 + (rank < keys // 5) * MASS_99
    values = rng.normal(size=(keys, _VALUE_DIM)).astype(np.float32)
    return {
        "statistic": np.log(mass) + noise,
        "mass": mass,
        "needed": flags.astype(np.uint8),
        "start": np.full(queries, 4, np.int64),
        "stop": np.sort(rng.integers(keys // 2, keys - 63, queries)).astype(np.int64),
        "values": values,
        "outputs": mass @ values,
    }
