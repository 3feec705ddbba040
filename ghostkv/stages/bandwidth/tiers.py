"""A memory tier: what it moves, and how long that takes.

A tier moves whole units (a 64 B line, a 4 KiB block). Reading rows is a number of *requests*, each of one or more
units that follow one another. With ``R`` requests that touch ``B`` bytes of whole units, of which ``W`` count as
met before the prefetcher has caught up with their request,

    time = R * overhead + max((R * latency + W * ramp + B / bandwidth) / min(R, depth), B / bandwidth).

Up to `depth` requests are in flight together, none is faster than the latency, and all share the bandwidth (Little's
law, with LogGP's overhead per message: Alexandrov et al. 1995). docs/bandwidth.md states what it leaves out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Tier:
    """One level of memory, as seen by what computes attention."""

    name: str
    bandwidth: float  # bytes a second that reach the compute
    latency: float  # seconds of one request that waits for nothing
    unit: int  # bytes that the tier moves at least: line, page or block
    depth: float = 1.0  # requests in flight
    overhead: float = 0.0  # seconds that each request costs whatever else is in flight
    ramp: float = 0.0  # extra seconds of a unit that no prefetcher has fetched
    # Units of a request after which the prefetcher has caught up, all but 1/e: the u-th costs ``exp(-u /
    # ramp_units)`` of the extra.
    ramp_units: float = 0.0
    near_bandwidth: float = 0.0  # bytes a second beside the memory, before any link

    def seconds(
        self, requests: float | np.ndarray, size: float | np.ndarray, ramp_units: float | np.ndarray = 0.0
    ) -> float | np.ndarray:
        """Time of `requests` requests that touch `size` bytes of whole units together; 0 for nothing.

        Expected values may be fractions; below one request, time is that of one, in proportion.
        """
        requests, size = np.asarray(requests, float), np.asarray(size, float)
        flying = np.clip(requests, 1.0, max(self.depth, 1.0))
        stream = size / self.bandwidth
        waiting = (requests * self.latency + np.asarray(ramp_units) * self.ramp + stream) / flying
        found = requests * self.overhead + np.maximum(waiting, stream)
        return found if found.ndim else float(found)


def expected(
    universe: float | np.ndarray, share: float | np.ndarray, row_bytes: int, unit: int
) -> tuple[np.ndarray, np.ndarray]:
    """Requests and bytes that rows drawn at random touch, on average.

    Each of `universe` rows is read with probability `share`. Rows do not straddle units: as many as fit lie in one,
    and longer rows begin at its start. With ``k`` rows to a unit, a unit is touched with probability ``p = 1 - (1 -
    share)^k``, and a request begins where the unit before is not touched.
    """
    universe, share = np.asarray(universe, float), np.clip(np.asarray(share, float), 0.0, 1.0)
    fit = max(1, unit // row_bytes)
    groups, each = universe / fit, -(-row_bytes // unit)
    hit = -np.expm1(fit * np.log1p(-np.minimum(share, 1 - 1e-15)))
    requests = groups * hit * (1 - hit) + np.minimum(hit, groups * hit) * hit
    return requests, groups * hit * each * unit
