"""Parameters of a tier from timings, and how well they foretell timings that they have not seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy.optimize import least_squares

from ghostkv.files.errors import TableError
from ghostkv.files.io import stable_seed
from ghostkv.stages.bandwidth.schemas import RAMPS
from ghostkv.stages.bandwidth.tiers import Tier
from ghostkv.store.touched import Touched, touched

# Timings that a fit needs: as many as it has parameters.
LEAST = 4
# Bounds of overhead (s), latency (s), ramp (s) and bandwidth (B/s) as natural logarithms.
_LOW, _HIGH = np.log([1e-12, 1e-10, 1e-12, 1e6]), np.log([1e-2, 1e-1, 1e-3, 1e13])
# A timing that is off by more than this (in natural logarithms) pulls no harder: one disturbed by others must not bend
# the fit.
_SOFT = 0.1


def halves(names: Sequence[str], seed: int) -> np.ndarray:
    """True for configurations that are fitted, False for those held out: every other one in a shuffled order."""
    ranks = np.argsort(np.argsort([stable_seed(seed, name) for name in names], kind="stable"))
    return ranks % 2 == 0


def features(
    starts: np.ndarray, row_bytes: int, unit: int, depth: int, merge: bool
) -> tuple[Touched, list[float]]:
    """What reading rows touches, and what its time is foretold from: requests, bytes, depth, ramp units at `RAMPS`."""
    found = [touched(starts, row_bytes, unit, ramp, merge) for ramp in RAMPS]
    sizes = [found[0].requests, found[0].size, depth, *(one.ramp_units for one in found)]
    return found[0], [float(size) for size in sizes]


def fit(name: str, unit: int, features: np.ndarray, seconds: np.ndarray) -> Tier:
    """The tier whose times come closest to `seconds`, in the logarithm; `features` as `features` gives them.

    Raises TableError where there are too few samples for the parameters, or a time is not positive.
    """
    if len(seconds) < LEAST or not (seconds > 0).all():
        raise TableError(
            f"bandwidth: {name} has {len(seconds)} timings to fit, some of them not above 0 s. Accepted: {LEAST} or more.\n"
            "  Write: more row bytes or shares under bandwidth.measure, and rerun"
        )
    found = [_fit_at(name, unit, features, seconds, index) for index in range(len(RAMPS))]
    return min(found, key=lambda pair: pair[1])[0]


def foretell(tier: Tier, features: np.ndarray) -> np.ndarray:
    """Seconds of each row of `features`."""
    ramp = features[:, 3 + RAMPS.index(tier.ramp_units)]
    times = [
        replace(tier, depth=depth).seconds(requests, size, units)
        for (requests, size, depth), units in zip(features[:, :3], ramp, strict=True)
    ]
    return np.array(times)


def _fit_at(
    name: str, unit: int, features: np.ndarray, seconds: np.ndarray, index: int
) -> tuple[Tier, float]:
    requests, size, depth, ramp = *features[:, :3].T, features[:, 3 + index]

    def model(logs: np.ndarray) -> np.ndarray:
        overhead, latency, extra, bandwidth = np.exp(logs)
        flying, stream = np.minimum(np.maximum(requests, 1), depth), size / bandwidth
        waiting = (requests * latency + ramp * extra + stream) / flying
        return requests * overhead + np.maximum(waiting, stream)

    def error(logs: np.ndarray) -> np.ndarray:
        return np.log(model(logs) / seconds)

    each = np.median(seconds / np.maximum(requests, 1))
    fastest = np.max(size / seconds)
    best = None
    for share in (0.1, 0.5):
        start = np.log([share * each, each, 0.3 * each, 1.2 * fastest])
        found = least_squares(
            error,
            np.clip(start, _LOW + 1e-6, _HIGH - 1e-6),
            bounds=(_LOW, _HIGH),
            loss="soft_l1",
            f_scale=_SOFT,
        )
        best = found if best is None or found.cost < best.cost else best
    overhead, latency, extra, bandwidth = np.exp(best.x)
    tier = Tier(name, bandwidth, latency, unit, float(depth.max()), overhead, extra, RAMPS[index])
    return tier, float(best.cost)
