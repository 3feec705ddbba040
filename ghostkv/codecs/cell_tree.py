"""One tree of cells for every coordinate: leaves that are narrow where keys are many, each split evenly further on.

A coordinate's 16-bit code is the path from the root: its first `d` bits are the cell at depth `d`. A tree is made of small
integers. Borders lie on a grid over the coordinate's range, and what a cell stands for is one of 256 places within it. A
file of trees is therefore small, and a tree that is read from it is the one that was fitted, bit for bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ghostkv.files.compiled import njit

TREE_BITS, CODE_BITS = 7, 16
_LEAVES = 1 << TREE_BITS
_SPLIT_BITS = CODE_BITS - TREE_BITS
# Steps of the grid that borders lie on, and places of a cell.
_STEPS, _PLACES = (1 << 16) - 1, 256
# Bins of the density that places the leaves, and the density that empty bins are given, relative to the fullest.
_DENSITY_BINS, _DENSITY_FLOOR = 256, 1e-4
# Leaves reach this share of the calibration range beyond it on either side; keys further out are clipped.
_OVERREACH = 0.125
# Keys whose coordinates are taken one after the other: so many stay in the processor's cache.
_BLOCK = 128


@dataclass(frozen=True)
class CellTree:
    """The trees of all coordinates of a codec."""

    low: np.ndarray  # float64 [dims]; first border
    step: np.ndarray  # float64 [dims]; of the grid
    borders: np.ndarray  # uint16 [dims, leaves + 1]; borders of the leaves, in steps from the first
    places: np.ndarray  # uint8 [dims, 2 * leaves - 1]; of every cell, depth after depth

    @classmethod
    def fit(cls, coordinates: np.ndarray) -> tuple[CellTree, np.ndarray, np.ndarray]:
        """Trees of coordinates, float64 [keys, dims], their `codes`, and the mean squared error at depths 0..16, shape [17, dims]."""
        columns = np.ascontiguousarray(coordinates.T)
        low, step, borders = (np.array(part) for part in zip(*map(_leaf_borders, columns), strict=True))
        bare = cls(low, step, borders, np.zeros((len(low), 2 * _LEAVES - 1), np.uint8))
        codes = bare.codes(coordinates)
        places, distortion = _cells(columns, np.ascontiguousarray(codes.T) >> _SPLIT_BITS, bare.edges)
        return cls(low, step, borders, places), codes, distortion

    @cached_property
    def edges(self) -> np.ndarray:
        """Borders of the leaves, float64 [dims, leaves + 1]."""
        return self.low[:, None] + self.step[:, None] * self.borders

    @cached_property
    def centroids(self) -> np.ndarray:
        """What cell `c` at depth `d` stands for, float32 [depths, dims, leaves]: the mean of its calibration keys, nearly."""
        found = np.zeros((TREE_BITS + 1, len(self.low), _LEAVES), np.float32)
        for depth in range(TREE_BITS + 1):
            cells = 1 << depth
            border = self.edges[:, :: _LEAVES >> depth]
            place = (self.places[:, cells - 1 : 2 * cells - 1] + 0.5) / _PLACES
            found[depth, :, :cells] = border[:, :-1] + np.diff(border) * place
        return found

    def codes(self, coordinates: np.ndarray) -> np.ndarray:
        """Paths from root to leaf and on, uint16 [keys, dims]."""
        codes = np.empty(coordinates.shape, np.uint16)
        _descend(np.ascontiguousarray(coordinates), self.edges, codes)
        return codes

    def rebuild(self, codes: np.ndarray, depths: np.ndarray) -> np.ndarray:
        """What the first `depths` bits of paths stand for, float32 [keys, dims]."""
        coordinates = np.empty(codes.shape, np.float32)
        _read(codes, depths, self.edges, self.centroids, coordinates)
        return coordinates


def _leaf_borders(column: np.ndarray) -> tuple[float, float, np.ndarray]:
    """First border, step and borders of leaves with density proportional to the cube root of the keys' density.

    That is the density of least squared error for fine cells (Panter and Dite 1951), and close to it for coarse ones.
    """
    low, high = column.min(), column.max()
    span = max(high - low, 1e-9 * max(abs(low), abs(high)), 1e-9)
    low, high = low - _OVERREACH * span, high + _OVERREACH * span
    counts, edges = np.histogram(column, _DENSITY_BINS, (low, high))
    smooth = np.convolve(counts, np.hanning(9)[1:-1], "same")
    weight = np.cbrt(smooth + _DENSITY_FLOOR * smooth.max())
    share = np.concatenate([[0.0], np.cumsum(weight)])
    borders = np.interp(np.linspace(0.0, share[-1], _LEAVES + 1), share, edges)
    step = (high - low) / _STEPS
    return low, step, np.clip(np.rint((borders - low) / step), 0, _STEPS).astype(np.uint16)


def _cells(columns: np.ndarray, leaves: np.ndarray, edges: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Places of all cells, and mean squared error at depths 0..16, shape [17, dims]; columns and leaves are [dims, keys]."""
    dims, keys = columns.shape
    places = np.zeros((dims, 2 * _LEAVES - 1), np.uint8)
    distortion = np.zeros((CODE_BITS + 1, dims))
    leaf = (leaves + _LEAVES * np.arange(dims)[:, None]).ravel()
    count = np.bincount(leaf, minlength=dims * _LEAVES).reshape(dims, _LEAVES).astype(np.float64)
    total = np.bincount(leaf, columns.ravel(), dims * _LEAVES).reshape(dims, _LEAVES)
    power, width = np.mean(columns**2, axis=1), np.diff(edges)
    within = (count * width**2).sum(axis=1) / keys / 12
    distortion[TREE_BITS + 1 :] = within * 0.25 ** np.arange(1, _SPLIT_BITS + 1)[:, None]
    for depth in range(TREE_BITS, -1, -1):
        cells = 1 << depth
        border = edges[:, :: _LEAVES >> depth]
        first, last = border[:, :-1], border[:, 1:]
        mean = np.where(count > 0, total / np.maximum(count, 1), (first + last) / 2)
        # A cell without width is its border.
        share = (mean - first) / np.where(last > first, last - first, 1.0)
        places[:, cells - 1 : 2 * cells - 1] = np.clip(_PLACES * share, 0, _PLACES - 1)
        distortion[depth] = np.maximum(power - (count * mean**2).sum(axis=1) / keys, 0.0)
        if depth:
            count, total = (each.reshape(dims, -1, 2).sum(axis=2) for each in (count, total))
    return places, np.minimum.accumulate(distortion, axis=0)


@njit(cache=True, nogil=True, error_model="numpy")
def _descend(coordinates, edges, codes):
    """Leaf by bisection, then equal parts; beyond the outer leaves a key is clipped."""
    parts = 1 << _SPLIT_BITS
    for begin in range(0, len(codes), _BLOCK):
        for i in range(codes.shape[1]):
            border = edges[i]
            for j in range(begin, min(begin + _BLOCK, len(codes))):
                y, leaf = coordinates[j, i], 0
                for shift in range(TREE_BITS - 1, -1, -1):
                    # Added, as no processor guesses such a branch.
                    leaf += (y >= border[leaf + (1 << shift)]) << shift
                width = border[leaf + 1] - border[leaf]
                part = parts * (y - border[leaf]) / width if width > 0.0 else 0.0
                codes[j, i] = (leaf << _SPLIT_BITS) | int(min(max(part, 0.0), parts - 1.0))


@njit(cache=True, nogil=True, error_model="numpy")
def _read(codes, depths, edges, centroids, coordinates):
    for begin in range(0, len(codes), _BLOCK):
        end = min(begin + _BLOCK, len(codes))
        for i in range(codes.shape[1]):
            depth, border = depths[i], edges[i]
            if depth <= TREE_BITS:
                table = centroids[depth, i]
                for j in range(begin, end):
                    coordinates[j, i] = table[codes[j, i] >> (CODE_BITS - depth)]
            else:
                parts = 1 << (depth - TREE_BITS)
                within = (1 << _SPLIT_BITS) - 1
                for j in range(begin, end):
                    leaf, part = codes[j, i] >> _SPLIT_BITS, (codes[j, i] & within) >> (CODE_BITS - depth)
                    width = border[leaf + 1] - border[leaf]
                    coordinates[j, i] = border[leaf] + (part + 0.5) * (width / parts)
