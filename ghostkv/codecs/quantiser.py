"""Uniform scalar quantisers with a bit budget, and their packed bytes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

MAX_BITS = 8
# Step of the best uniform quantiser of a unit Gaussian with 1..8 bits (Max 1960, table II); a starting point,
# the fit searches around it because key coordinates have heavier or lighter tails.
_GAUSSIAN_STEP = np.array([1.596, 0.9957, 0.5860, 0.3352, 0.1881, 0.1041, 0.0569, 0.0308])
_STEP_SEARCH = np.array([0.6, 0.75, 0.9, 1.0, 1.15, 1.35, 1.6, 2.0])
# Calibration keys that the step search looks at; more changes the third digit.
_SEARCH_KEYS = 2048


@dataclass(frozen=True)
class UniformQuantiser:
    """One uniform quantiser per coordinate, clipped at both ends."""

    bits: np.ndarray  # int64 [dims]; 0 for a coordinate that is not written
    # float64 [dims]; level ``c`` of a coordinate stands for ``centre + (c - (2**bits - 1) / 2) * step``
    step: np.ndarray
    centre: np.ndarray

    @classmethod
    def fit(cls, coordinates: np.ndarray, bits: np.ndarray) -> UniformQuantiser:
        """Choose centre and step of each coordinate for least squared error on ``coordinates``."""
        centre = coordinates.mean(axis=0)
        sample = coordinates[:: max(1, len(coordinates) // _SEARCH_KEYS)] - centre
        step, _ = _best_steps(sample, np.broadcast_to(bits, (1, len(bits))))
        return cls(np.asarray(bits, np.int64), step[0], centre)

    @property
    def _top(self) -> np.ndarray:
        return (1 << self.bits) - 1

    def select(self, dims: np.ndarray) -> UniformQuantiser:
        """The quantiser of the chosen coordinates alone."""
        return UniformQuantiser(self.bits[dims], self.step[dims], self.centre[dims])

    def quantise(self, coordinates: np.ndarray) -> np.ndarray:
        """Nearest level of each coordinate, uint8, shape [keys, dims]."""
        levels = np.rint((coordinates - self.centre) / self.step + self._top / 2)
        return np.clip(levels, 0, self._top).astype(np.uint8)

    def dequantise(self, codes: np.ndarray) -> np.ndarray:
        """Coordinates that the levels stand for, float32, shape [keys, dims]."""
        return (self.centre + (codes - self._top / 2) * self.step).astype(np.float32)

    def pack(self, codes: np.ndarray, code_bytes: int) -> np.ndarray:
        """Levels as bytes, most significant bits of the coordinate first; uint8, shape [keys, code_bytes]."""
        if (self.bits == MAX_BITS).all():
            return np.pad(codes, ((0, 0), (0, code_bytes - codes.shape[1])))
        column, shift = self._layout()
        stream = np.zeros((len(codes), code_bytes * 8), np.uint8)
        stream[:, : len(column)] = (codes[:, column] >> shift) & 1
        return np.packbits(stream, axis=1)

    def unpack(self, packed: np.ndarray) -> np.ndarray:
        """The inverse of `pack`."""
        if (self.bits == MAX_BITS).all():
            return packed[:, : len(self.bits)]
        column, shift = self._layout()
        stream = np.unpackbits(packed, axis=1, count=len(column)) << shift
        codes = np.zeros((len(packed), len(self.bits)), np.uint8)
        written = np.flatnonzero(self.bits)
        if len(written):
            starts = np.concatenate([[0], np.cumsum(self.bits[written])[:-1]])
            codes[:, written] = np.bitwise_or.reduceat(stream, starts, axis=1)
        return codes

    def _layout(self) -> tuple[np.ndarray, np.ndarray]:
        """Coordinate and bit position of every bit of the stream."""
        column = np.repeat(np.arange(len(self.bits)), self.bits)
        first = np.repeat(np.cumsum(self.bits) - self.bits, self.bits)
        shift = self.bits[column] - 1 - (np.arange(len(column)) - first)
        return column, shift.astype(np.uint8)


def allocate_bits(coordinates: np.ndarray, budget: int) -> np.ndarray:
    """Spend a bit budget where it removes most squared error (greedy reverse water-filling on measured distortion).

    Parameters
    ----------
    coordinates : ndarray, shape [keys, dims]
        Calibration coordinates in a frame where squared error is what matters.

    Returns
    -------
    ndarray of int64, shape [dims]
        Bits of each coordinate, 0..8, summing to the budget (or to 8 * dims if that is less).
    """
    return spend_bits(measured_distortion(coordinates), budget)


def spend_bits(distortion: np.ndarray, budget: int) -> np.ndarray:
    """`allocate_bits` where the distortion is measured already, shape [9, dims]."""
    dims = distortion.shape[1]
    # Measured distortion is convex only up to noise; a running minimum keeps the greedy choice well defined.
    gain = -np.diff(np.minimum.accumulate(distortion, axis=0), axis=0)
    bits = np.zeros(dims, np.int64)
    for _ in range(min(budget, MAX_BITS * dims)):
        open_gain = np.where(bits < MAX_BITS, gain[np.minimum(bits, MAX_BITS - 1), np.arange(dims)], -1.0)
        bits[np.argmax(open_gain)] += 1
    return bits


def measured_distortion(coordinates: np.ndarray) -> np.ndarray:
    """Mean squared error of each coordinate at 0 to 8 bits, each with its best step; shape [9, dims]."""
    centred = coordinates[:: max(1, len(coordinates) // _SEARCH_KEYS)]
    centred = centred - centred.mean(axis=0)
    dims = centred.shape[1]
    distortion = np.empty((MAX_BITS + 1, dims))
    distortion[0] = (centred**2).mean(axis=0)
    levels = np.repeat(np.arange(1, MAX_BITS + 1)[:, None], dims, axis=1)
    _, distortion[1:] = _best_steps(centred, levels)
    return distortion


def _best_steps(centred: np.ndarray, bits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Best step and its mean squared error for each row of bit counts; both of shape [rows, dims]."""
    spread = np.maximum(centred.std(axis=0), 1e-12)
    best_step = np.broadcast_to(spread, bits.shape).copy()
    best_error = np.full(bits.shape, np.inf)
    for row, counts in enumerate(bits):
        top = (1 << counts) - 1
        for factor in _STEP_SEARCH:
            step = spread * _GAUSSIAN_STEP[np.maximum(counts, 1) - 1] * factor
            levels = np.clip(np.rint(centred / step + top / 2), 0, top)
            error = ((centred - (levels - top / 2) * step) ** 2).mean(axis=0)
            better = error < best_error[row]
            best_step[row] = np.where(better, step, best_step[row])
            best_error[row] = np.where(better, error, best_error[row])
    return best_step, best_error
