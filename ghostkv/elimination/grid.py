"""Thresholds, and how a statistic finds the one that it passes."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ghostkv.files.compiled import njit

# Cells of the look-up table per threshold; more only makes the first guess of a bin better, the correction is
# exact.
_CELLS_PER_THETA, _MIN_CELLS, _MAX_CELLS = 4, 1024, 65536


# Unsigned indices below: a signed one makes Numba test for Python's negative indexing, which stops the loops
# from being vectorised. Statistics hold no NaN, so comparisons may be taken as total.
_FAST = {"nnan", "nsz"}


class Grid(NamedTuple):
    """Ascending thresholds and the table that finds a statistic's bin in constant time."""

    theta: np.ndarray  # float32 [thetas]
    # float32 [thetas + 1]; the thresholds and infinity, so that the correction needs no test for the end
    padded: np.ndarray
    # uint32 [cells]; for each cell of an even partition of [theta[0], theta[-1]], a bin that is not above any
    # statistic's bin in that cell
    table: np.ndarray
    edge: (
        np.ndarray
    )  # float32 [cells]; the threshold that a statistic of the cell must reach to be in a later bin
    inverse: np.float32  # cells per unit of the statistic
    corrections: int  # how many thresholds a cell's guess can be short by

    @classmethod
    def of(cls, theta: np.ndarray) -> Grid:
        """Prepare ascending thresholds.

        Raises
        ------
        ValueError
            Thresholds are empty, not finite or not strictly ascending in float32.
        """
        theta = np.asarray(theta, np.float32)
        if theta.ndim != 1 or not len(theta) or not np.isfinite(theta).all() or (np.diff(theta) <= 0).any():
            raise ValueError("thresholds must be finite and strictly ascending in float32")
        span = max(float(theta[-1]) - float(theta[0]), 1e-30)
        cells = int(np.clip(_CELLS_PER_THETA * len(theta), _MIN_CELLS, _MAX_CELLS))
        # A guess starts one cell early and the true bin lies at most one cell late: float32 rounding moves a
        # statistic by less than a cell, so the window of three cells bounds the correction.
        edges = np.arange(-1, cells + 2) * (span / cells) + float(theta[0])
        bins = np.searchsorted(theta.astype(np.float64), edges, "right")
        bins[0] = 0
        table = bins[:cells]
        padded = np.append(theta, np.float32(np.inf))
        return cls(
            theta,
            padded,
            table.astype(np.uint32),
            padded[table],
            np.float32(cells / span),
            int((bins[3:] - table).max()),
        )


@njit(cache=True, nogil=True, fastmath=_FAST, error_model="numpy")
def bin_row(statistic, grid, guess, bins):
    """``bins[j] = searchsorted(theta, statistic[j], "right")``: a table look-up, then an exact correction.

    Parameters
    ----------
    statistic : ndarray of float32, shape [keys]
    guess, bins : ndarray of uint32, shape [keys]
        Scratch, and where the bins go.
    """
    padded, table, edge = grid.padded, grid.table, grid.edge
    low, top = padded[0], np.float32(table.size - 1)
    last = np.uint32(padded.size - 1)
    for j in range(statistic.size):
        cell = (statistic[j] - low) * grid.inverse
        cell = cell if cell > np.float32(0) else np.float32(0)
        guess[j] = np.uint32(np.int32(cell if cell < top else top))
    # Both look-ups depend on the cell alone, so neither waits for the other.
    for j in range(statistic.size):
        cell = np.uint64(guess[j])
        # An infinite statistic passes the infinite padding too, hence the cap.
        bins[j] = min(table[cell] + np.uint32(edge[cell] <= statistic[j]), last)
    for _ in range(grid.corrections - 1):
        for j in range(statistic.size):
            found = bins[j]
            bins[j] = min(found + np.uint32(padded[np.uint64(found)] <= statistic[j]), last)
