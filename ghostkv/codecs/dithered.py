"""A transform code with subtractive dither: the error of an estimate is random, with a law that is known and the keys do not change.

Coordinates are those of `Whitened`. Each is quantised uniformly after a random share of a step was added to it, and that share is
taken off again when it is read: subtractive dither (Schuchman 1964; Gray and Stockham 1993). The error of a coordinate then is
uniform over one step, whatever the key, and independent of that of every other coordinate and key. So the error of a score
is a sum of independent uniform numbers whose widths the query alone determines: `NoiseLaw`.

Shares come from a hash of (seed, key, coordinate) and are stored nowhere. A key is clipped to the range that has steps; what was
clipped is stored as a residual norm, and bounded like any residual.

A second level, the last planes, makes the record as long as a float16 key, so that it can be the stored key.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from ghostkv.codecs.base import FRAME_SLACK, RHO_BYTES, RHO_MAX, UNIT_ROUNDOFF, Decoded, ProjectedQueries
from ghostkv.codecs.whitened import Whitened
from ghostkv.files.compiled import njit

# Calibration keys outside the range that has steps, on either side of each coordinate: narrower steps against clipped keys.
_CLIPPED = 1e-4
# The last planes reach so far beyond the range, as a share of it.
_OVERREACH = 0.125
_CODE_BITS = 16
_RHO_GROWTH, _RHO_HEADROOM = 1.05, 8.0
# What is fitted in float64 reaches the law through float32 queries: a relative error below this.
_LAW_SLACK = 2.0**-16


@dataclass(frozen=True)
class DitheredRecords:
    """Codes of one KV head; how they are packed into bytes changes nothing that is read from them."""

    code: np.ndarray  # uint16 [keys, dims]; of the level with dither
    planes: np.ndarray  # uint16 [keys, dims]; what the last planes add
    rho: np.ndarray  # uint8 [keys, 2]; residual norms of both, as indices into the codec's scales, rounded up; 255 is infinite

    def __len__(self) -> int:
        return len(self.rho)


class NoiseLaw(NamedTuple):
    """Of the error ``xi`` of an estimate, which is independent from key to key; arrays of float64 [queries].

    ``xi`` is a sum of independent numbers, each uniform on ``-+ a_j``. Hence it is symmetric and sub-Gaussian with its own variance
    ``sum a_j^2 / 3``, as ``sinh(x) / x <= exp(x^2 / 6)``.
    """

    log_mean: np.ndarray  # ``ln E exp(xi)``, rounded down
    spread: np.ndarray  # standard deviation of ``exp(xi) / E exp(xi)``, rounded up
    deviation: np.ndarray  # that of ``xi``, rounded up


@dataclass
class Dithered(Whitened):
    """The dithered transform code; `code_bytes` of the level with dither, `plane_bytes` of the last planes."""

    in_config = False

    plane_bytes: int = 0
    low_: np.ndarray = field(default=None, repr=False)  # float64 [dims]; least value that has steps
    step_: np.ndarray = field(default=None, repr=False)  # float64 [dims]; of the level with dither
    bits_: np.ndarray = field(default=None, repr=False)  # int64 [dims]; of the same, at least 1
    plane_bits_: np.ndarray = field(default=None, repr=False)  # int64 [dims]; of the last planes
    rho_top_: np.ndarray = field(
        default=None, repr=False
    )  # float64 [2]; the largest residual norm that each level can state

    @classmethod
    def of(cls, levels: tuple[int, int], seed: int) -> Dithered:
        """An unfitted codec with these bytes of code in its two levels."""
        return cls(code_bytes=levels[0], seed=seed, plane_bytes=levels[1])

    @property
    def level_bytes(self) -> np.ndarray:
        """Bytes that a key costs when a level is read: code and residual norm, shape [2]."""
        return np.array([self.code_bytes, self.plane_bytes], np.int64) + RHO_BYTES

    def fit(self, keys: np.ndarray, queries: np.ndarray) -> Dithered:
        """Fit frame, ranges and bits; parameters as for `Codec.fit`.

        Raises
        ------
        ValueError
            There is less than one bit for each coordinate.
        """
        keys, queries = np.asarray(keys, np.float64), np.asarray(queries, np.float64)
        self.fit_frame(keys, queries)
        coordinates = (keys - self.mean_) @ self.encoder_.T
        self.low_, high = np.quantile(coordinates, [_CLIPPED, 1.0 - _CLIPPED], axis=0)
        span = np.maximum(high - self.low_, 1e-9 * np.maximum(np.abs(high), np.abs(self.low_)) + 1e-30)
        if 8 * self.code_bytes < len(span):
            raise ValueError(
                f"{self.code_bytes} bytes are less than one bit for each of {len(span)} coordinates"
            )
        self.bits_ = _spend(
            lambda bits: span / (2.0**bits - 1.0), 8 * self.code_bytes, np.ones(len(span), np.int64)
        )
        self.step_ = span / (2.0**self.bits_ - 1.0)
        self.plane_bits_ = _spend(self._plane_step_of, 8 * self.plane_bytes, np.zeros(len(span), np.int64))
        largest = np.linalg.norm(coordinates - self._clip(coordinates), axis=1).max(initial=0.0)
        finest = np.linalg.norm(self._plane_step) / 2.0
        self.rho_top_ = np.array(
            [_RHO_HEADROOM * max(largest, np.linalg.norm(self.step_)), _RHO_HEADROOM * max(largest, finest)]
        )
        return self

    def encode(self, keys: np.ndarray) -> DitheredRecords:
        """Write records of finite keys, shape [keys, head_dim]; key ``i`` takes the shares of number ``i``."""
        coordinates = (np.asarray(keys, np.float64) - self.mean_) @ self.encoder_.T
        clipped = self._clip(coordinates)
        shares = dither(self.seed, len(clipped), len(self.step_))
        code = np.minimum(np.floor((clipped - self.low_) / self.step_ + shares), 2.0**self.bits_ - 1.0)
        rebuilt = self._rebuild(code, shares)
        planes = np.floor((coordinates - rebuilt + self._reach) / self._plane_step)
        planes = np.clip(planes, 0.0, 2.0**self.plane_bits_ - 1.0)
        full = rebuilt + self._refine(planes)
        residuals = (
            np.linalg.norm(coordinates - clipped, axis=1),
            np.linalg.norm(coordinates - full.astype(np.float32), axis=1),
        )
        rho = np.stack(
            [
                np.searchsorted(self._scale(level), one * FRAME_SLACK, "left")
                for level, one in enumerate(residuals)
            ],
            axis=1,
        )
        return DitheredRecords(code.astype(np.uint16), planes.astype(np.uint16), rho.astype(np.uint8))

    def decode(self, records: DitheredRecords, level: int = 1) -> Decoded:
        """Read records back: the level with dither (0), or the last planes as well (1).

        At level 0 `radius` bounds what was clipped and what float32 rounds, and *not* the dithered error, whose law is `law`.
        """
        shares = dither(self.seed, len(records), len(self.step_))
        coordinates = self._rebuild(records.code.astype(np.float64), shares)
        if level:
            coordinates += self._refine(records.planes.astype(np.float64))
        coordinates = coordinates.astype(np.float32)
        rho = np.append(self._scale(level), np.inf)[records.rho[:, level]] * FRAME_SLACK
        if not level:
            rho = rho + 2.0 * UNIT_ROUNDOFF * np.linalg.norm(coordinates.astype(np.float64), axis=1)
        decoded = self._decoded(coordinates, rho)
        if level:
            return decoded
        # A key may be longer than its estimate by the dithered error, which no radius holds.
        beyond = FRAME_SLACK * np.linalg.norm(self.decoder_, 2) * np.linalg.norm(self.step_) / 2.0
        return replace(decoded, longest=float(decoded.longest + beyond))

    def law(self, queries: ProjectedQueries, scale: float) -> NoiseLaw:
        """Of the dithered error of ``scale * q.k``, for queries of `project`."""
        reach = np.abs(queries.coordinates.astype(np.float64)) * (abs(scale) * self.step_ / 2.0)
        once, twice = _log_sinhc(reach).sum(axis=1), _log_sinhc(2.0 * reach).sum(axis=1)
        with np.errstate(over="ignore"):
            spread = np.sqrt(np.expm1(twice - 2.0 * once))
        deviation = np.sqrt((reach**2).sum(axis=1) / 3.0)
        return NoiseLaw(
            once * (1.0 - _LAW_SLACK), spread * (1.0 + _LAW_SLACK), deviation * (1.0 + _LAW_SLACK)
        )

    @property
    def _reach(self) -> np.ndarray:
        """How far the last planes reach on either side of what the first level says."""
        return self.step_ / 2.0 + _OVERREACH * self.step_ * (2.0**self.bits_ - 1.0)

    @property
    def _plane_step(self) -> np.ndarray:
        return self._plane_step_of(self.plane_bits_)

    def _plane_step_of(self, bits: np.ndarray) -> np.ndarray:
        return 2.0 * self._reach / 2.0**bits

    def _clip(self, coordinates: np.ndarray) -> np.ndarray:
        return np.clip(coordinates, self.low_, self.low_ + self.step_ * (2.0**self.bits_ - 1.0))

    def _rebuild(self, code: np.ndarray, shares: np.ndarray) -> np.ndarray:
        return self.low_ + self.step_ * (code - shares + 0.5)

    def _refine(self, planes: np.ndarray) -> np.ndarray:
        return (planes + 0.5) * self._plane_step - self._reach

    def _scale(self, level: int) -> np.ndarray:
        """Residual norms that a byte can state; the first is 0, which most keys have at level 0."""
        return np.append(0.0, self.rho_top_[level] * _RHO_GROWTH ** np.arange(1.0 - RHO_MAX, 1.0))


def _spend(step_of: Callable[[np.ndarray], np.ndarray], bits: int, depth: np.ndarray) -> np.ndarray:
    """Bits of each coordinate, from `depth` on: each further one goes where the step is widest (reverse water-filling)."""
    while depth.sum() < bits and (depth < _CODE_BITS).any():
        depth[np.argmax(np.where(depth < _CODE_BITS, step_of(depth), -1.0))] += 1
    return depth


def _log_sinhc(x: np.ndarray) -> np.ndarray:
    """``ln(sinh(x) / x)`` of numbers that are not negative: by its series where they are small."""
    small = x * x / 6.0 - x**4 / 180.0
    wide = np.maximum(x, 0.05)
    return np.where(x < 0.05, small, wide + np.log1p(-np.exp(-2.0 * wide)) - np.log(2.0 * wide))


def dither(seed: int, keys: int, dims: int) -> np.ndarray:
    """Shares of a step in ``[0, 1)``, float64 [keys, dims]: a hash of seed, key and coordinate."""
    shares = np.empty((keys, dims))
    _hash(np.uint64(seed & (2**64 - 1)), shares)
    return shares


@njit(cache=True, nogil=True, error_model="numpy")
def _hash(seed, shares):
    """SplitMix64 (Steele, Lea and Flood 2014) of a counter; the high 53 bits of each number make a share."""
    gamma = np.uint64(0x9E3779B97F4A7C15)
    for key in range(shares.shape[0]):
        for i in range(shares.shape[1]):
            state = seed + gamma * np.uint64(key * shares.shape[1] + i + 1)
            state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            shares[key, i] = ((state ^ (state >> np.uint64(31))) >> np.uint64(11)) * 2.0**-53
