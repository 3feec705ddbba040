"""An embedded transform code: a record that can be read a few bytes at a time, each level with its own residual.

Keys are seen from the query-aware frame of `Whitened`. Every coordinate has one tree of cells: 256 leaves, narrow
where keys are many, each split evenly 256 times more. Its 16-bit code is the path from the root, so the first `d`
bits are the coordinate's cell at depth `d`, and every further bit halves a cell (successive approximation: Shapiro
1993; embedded quantisers: Taubman and Marcellin 2002). Bits of all coordinates are interleaved in the order in
which they remove most squared score error, and the stream is cut into levels.

A level adds one byte, the residual norm that is left once it is read: `Decoded` of every level bounds a score as
that of any other codec does. With all 16 bits a coordinate the code is about as precise as float16, so it can be
the stored key itself ("nested" storage), of which a survivor reads only the remaining planes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ghostkv.codecs.base import ELEMENT_BYTES, FRAME_SLACK, RHO_BYTES, RHO_MAX, Decoded, round_up
from ghostkv.codecs.whitened import Whitened
from ghostkv.files.compiled import njit
from ghostkv.files.errors import TableError

TREE_BITS, CODE_BITS = 8, 16
_LEAVES = 1 << TREE_BITS
# Bins of the density that places the leaves, and the density that empty bins are given, relative to the fullest.
_DENSITY_BINS, _DENSITY_FLOOR = 256, 1e-4
# Residual norms are stored on a geometric scale: 255 values, each this factor above the one before, the last this
# many times the largest residual seen in calibration. Deep levels have residuals of very different size.
_RHO_GROWTH, _RHO_HEADROOM = 1.0125, 3.0
# Calibration keys that the largest residual is taken from; the headroom covers the rest.
_RESIDUAL_KEYS = 4096
# Leaves reach this share of the calibration range beyond it on either side; keys further out are clipped.
_OVERREACH = 0.125


@dataclass(frozen=True)
class NestedRecords:
    """Embedded codes of one KV head, as stored."""

    planes: tuple[np.ndarray, ...]  # uint8 [keys, level_bytes]; the bit stream, cut into levels
    # uint8 [keys, levels]; residual norm once a level is read, as an index into the codec's scale, rounded up; 255 is
    # infinite
    rho: np.ndarray

    def __len__(self) -> int:
        return len(self.rho)


@dataclass
class Nested(Whitened):
    """The embedded transform code; `code_bytes` is the sum of `levels`."""

    in_config = False

    levels: tuple[int, ...] = ()  # bytes of code of each level. Each is followed by `RHO_BYTES`.
    edges_: np.ndarray = field(default=None, repr=False)  # [dims, 257]; borders of the leaves
    # float32 [9, dims, 256]; what cell ``c`` at depth ``d`` <= 8 stands for: the mean of its calibration keys
    centroids_: np.ndarray = field(default=None, repr=False)
    # int64 [bits]; the coordinate that each bit of the stream refines
    order_: np.ndarray = field(default=None, repr=False)
    # [levels]; largest residual norm that each level can state
    rho_top_: np.ndarray = field(default=None, repr=False)

    @classmethod
    def of(cls, levels: tuple[int, ...]) -> Nested:
        """An unfitted codec with these bytes of code per level."""
        return cls(code_bytes=sum(levels), levels=tuple(levels))

    @property
    def level_bytes(self) -> np.ndarray:
        """Bytes that a key costs when a level is read: code and residual norm, shape [levels]."""
        return np.array(self.levels, np.int64) + RHO_BYTES

    def fit(self, keys: np.ndarray, queries: np.ndarray) -> Nested:
        """Fit frame, cells, order of bits and residual steps; parameters as for `Codec.fit`.

        Raises
        ------
        ValueError
            The levels hold more than 16 bits a coordinate.
        """
        keys, queries = np.asarray(keys, np.float64), np.asarray(queries, np.float64)
        self.fit_frame(keys, queries)
        coordinates = (keys - self.mean_) @ self.encoder_.T
        dims = coordinates.shape[1]
        if 8 * self.code_bytes > CODE_BITS * dims:
            raise ValueError(
                f"levels {self.levels} hold more than {CODE_BITS} bits for each of {dims} coordinates"
            )
        self.edges_ = np.stack([_leaf_edges(column) for column in coordinates.T])
        codes = self._codes(coordinates)
        self.centroids_, distortion = _cells(coordinates, codes >> TREE_BITS, self.edges_)
        self.order_ = _order(distortion, 8 * self.code_bytes)
        some = slice(None, None, max(1, len(codes) // _RESIDUAL_KEYS))
        largest = [
            self._residual_at(coordinates[some], codes[some], level).max(initial=0.0)
            for level in range(len(self.levels))
        ]
        self.rho_top_ = _RHO_HEADROOM * np.maximum(largest, 1e-6)
        return self

    def depths(self, level: int) -> np.ndarray:
        """Bits of each coordinate that are known once `level` is read, shape [dims]."""
        bits = 8 * sum(self.levels[: level + 1])
        return np.bincount(self.order_[:bits], minlength=len(self.edges_))

    def encode(self, keys: np.ndarray) -> NestedRecords:
        """Write records of finite keys, shape [keys, head_dim]."""
        coordinates = (np.asarray(keys, np.float64) - self.mean_) @ self.encoder_.T
        codes = self._codes(coordinates)
        rho = np.empty((len(codes), len(self.levels)), np.uint8)
        for level in range(len(self.levels)):
            residual = self._residual_at(coordinates, codes, level) * FRAME_SLACK
            rho[:, level] = np.searchsorted(self._rho_scale(level), residual, "left")
        stream = np.empty((len(codes), self.code_bytes), np.uint8)
        _pack(codes, self.order_, stream)
        return NestedRecords(tuple(np.split(stream, np.cumsum(self.levels)[:-1], axis=1)), rho)

    def decode(self, records: NestedRecords, level: int | None = None) -> Decoded:
        """Read records back up to and including `level`; by default all of them.

        Raises
        ------
        TableError
            The records were written with other levels.
        """
        widths = tuple(plane.shape[1] for plane in records.planes)
        if widths != self.levels:
            raise TableError(
                f"codec {self.name}: records have levels of {widths} bytes, the codec {self.levels}"
            )
        level = len(self.levels) - 1 if level is None else level
        codes = np.zeros((len(records), len(self.edges_)), np.uint16)
        _unpack(np.concatenate(records.planes[: level + 1], axis=1), self.order_, codes)
        coordinates = self._rebuild(codes, level)
        rho = np.append(self._rho_scale(level), np.inf)[records.rho[:, level]] * FRAME_SLACK
        radius = rho + self._rounding(np.linalg.norm(coordinates.astype(np.float64), axis=1), rho)
        return Decoded(coordinates, round_up(radius))

    def _rho_scale(self, level: int) -> np.ndarray:
        return self.rho_top_[level] * _RHO_GROWTH ** np.arange(-RHO_MAX, 1.0)

    def _codes(self, coordinates: np.ndarray) -> np.ndarray:
        """Paths from root to leaf and on, uint16, shape [keys, dims]."""
        codes = np.empty(coordinates.shape, np.uint16)
        _descend(np.ascontiguousarray(coordinates), self.edges_, codes)
        return codes

    def _rebuild(self, codes: np.ndarray, level: int) -> np.ndarray:
        """What the first bits of paths stand for, float32, shape [keys, dims]."""
        coordinates = np.empty(codes.shape, np.float32)
        _read(codes, self.depths(level), self.edges_, self.centroids_, coordinates)
        return coordinates

    def _residual_at(self, coordinates: np.ndarray, codes: np.ndarray, level: int) -> np.ndarray:
        """``||y - y_hat||``, which is ``||W (k - k_hat)||`` because encoder and decoder are inverse."""
        return np.linalg.norm(coordinates - self._rebuild(codes, level), axis=1)


def _leaf_edges(column: np.ndarray) -> np.ndarray:
    """Borders of 256 leaves with density proportional to the cube root of the keys' density.

    That is the density of least squared error for fine cells (Panter and Dite 1951), and close to it for coarse ones.
    """
    low, high = column.min(), column.max()
    span = max(high - low, 1e-9 * max(abs(low), abs(high)), 1e-9)
    low, high = low - _OVERREACH * span, high + _OVERREACH * span
    counts, borders = np.histogram(column, _DENSITY_BINS, (low, high))
    smooth = np.convolve(counts, np.hanning(9)[1:-1], "same")
    weight = np.cbrt(smooth + _DENSITY_FLOOR * smooth.max())
    share = np.concatenate([[0.0], np.cumsum(weight)])
    return np.interp(np.linspace(0.0, share[-1], _LEAVES + 1), share, borders)


def _cells(coordinates: np.ndarray, leaves: np.ndarray, edges: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Centroids of all cells at depths 0..8, and mean squared error at depths 0..16, shape [17, dims]."""
    dims = len(edges)
    centroids = np.zeros((TREE_BITS + 1, dims, _LEAVES), np.float32)
    distortion = np.zeros((CODE_BITS + 1, dims))
    for i, (column, leaf, border) in enumerate(zip(coordinates.T, leaves.T, edges, strict=True)):
        count = np.bincount(leaf, minlength=_LEAVES).astype(np.float64)
        total = np.bincount(leaf, column, _LEAVES)
        power = np.mean(column**2)
        width = np.diff(border)
        distortion[TREE_BITS + 1 :, i] = (
            (count * width**2).sum() / len(column) / 12 * 0.25 ** np.arange(1, CODE_BITS - TREE_BITS + 1)
        )
        for depth in range(TREE_BITS, -1, -1):
            cells = 1 << depth
            middle = (border[:-1].reshape(cells, -1)[:, 0] + border[1:].reshape(cells, -1)[:, -1]) / 2
            mean = np.where(count > 0, total / np.maximum(count, 1), middle)
            centroids[depth, i, :cells] = mean
            distortion[depth, i] = max(power - (count * mean**2).sum() / len(column), 0.0)
            if depth:
                count, total = count.reshape(-1, 2).sum(axis=1), total.reshape(-1, 2).sum(axis=1)
    return centroids, np.minimum.accumulate(distortion, axis=0)


def _order(distortion: np.ndarray, bits: int) -> np.ndarray:
    """Greedy reverse water-filling: the coordinate that each next bit should refine."""
    gain = np.vstack([-np.diff(distortion, axis=0), np.full((1, distortion.shape[1]), -1.0)])
    depth = np.zeros(distortion.shape[1], np.int64)
    order = np.empty(bits, np.int64)
    every = np.arange(len(depth))
    for t in range(bits):
        order[t] = np.argmax(gain[depth, every])
        depth[order[t]] += 1
    return order


@njit(cache=True, nogil=True, error_model="numpy")
def _descend(coordinates, edges, codes):
    """Leaf by bisection, then 256 equal parts; beyond the outer leaves a key is clipped."""
    for i in range(coordinates.shape[1]):
        border = edges[i]
        for j in range(coordinates.shape[0]):
            y, leaf = coordinates[j, i], 0
            for shift in range(7, -1, -1):
                middle = leaf + (1 << shift)
                if y >= border[middle]:
                    leaf = middle
            width = border[leaf + 1] - border[leaf]
            part = 256.0 * (y - border[leaf]) / width if width > 0.0 else 0.0
            codes[j, i] = (leaf << 8) | int(min(max(part, 0.0), 255.0))


@njit(cache=True, nogil=True, error_model="numpy")
def _read(codes, depths, edges, centroids, coordinates):
    for i in range(codes.shape[1]):
        depth, border = depths[i], edges[i]
        if depth <= 8:
            table = centroids[depth, i]
            for j in range(codes.shape[0]):
                coordinates[j, i] = table[codes[j, i] >> (16 - depth)]
        else:
            parts = 1 << (depth - 8)
            for j in range(codes.shape[0]):
                leaf, part = codes[j, i] >> 8, (codes[j, i] & 255) >> (16 - depth)
                width = border[leaf + 1] - border[leaf]
                coordinates[j, i] = border[leaf] + (part + 0.5) * (width / parts)


@njit(cache=True, nogil=True, error_model="numpy")
def _pack(codes, order, stream):
    """Bit t of the stream is the next bit of coordinate order[t], most significant first."""
    known = np.zeros(codes.shape[1], np.int64)
    shift = np.empty(order.size, np.int64)
    for t in range(order.size):
        shift[t] = 15 - known[order[t]]
        known[order[t]] += 1
    for j in range(codes.shape[0]):
        for byte in range(stream.shape[1]):
            value = 0
            for t in range(8 * byte, 8 * byte + 8):
                value = (value << 1) | ((codes[j, order[t]] >> shift[t]) & 1)
            stream[j, byte] = value


@njit(cache=True, nogil=True, error_model="numpy")
def _unpack(stream, order, codes):
    """The inverse of `_pack`, as far as the stream goes; unknown bits are zero."""
    known = np.zeros(codes.shape[1], np.int64)
    bits = 8 * stream.shape[1]
    shift = np.empty(bits, np.int64)
    for t in range(bits):
        shift[t] = 15 - known[order[t]]
        known[order[t]] += 1
    for j in range(codes.shape[0]):
        for byte in range(stream.shape[1]):
            value = stream[j, byte]
            for t in range(8 * byte, 8 * byte + 8):
                bit = (value >> (7 - (t - 8 * byte))) & 1
                codes[j, order[t]] |= np.uint16(bit << shift[t])


def level_bytes(bits: Sequence[float], head_dim: int) -> tuple[int, ...]:
    """Bytes of code of the cascade's levels and of the last planes.

    With all residual bytes the record is as long as the float16 key, so that it can be stored in its place.
    """
    levels = [max(1, round(each * head_dim / 8)) for each in bits]
    rest = ELEMENT_BYTES * head_dim - sum(levels) - RHO_BYTES * (len(levels) + 1)
    return (*levels, max(1, rest))
