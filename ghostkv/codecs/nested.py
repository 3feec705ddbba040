"""An embedded transform code: a record that can be read a few bytes at a time, each level with its own residual.

Keys are seen from the query-aware frame of `Whitened`. Every coordinate has one tree of cells. Its 16-bit code is the
path from the root, so the first `d` bits are the coordinate's cell at depth `d`, and every further bit halves a cell
(successive approximation: Shapiro 1993; embedded quantisers: Taubman and Marcellin 2002). Bits of all coordinates are
interleaved in the order in which they remove most squared score error, and the stream is cut into levels.

A level adds one byte, the residual norm that is left once it is read: `Decoded` of every level bounds a score as
that of any other codec does. With all 16 bits a coordinate the code is about as precise as float16, so it can be
the stored key itself ("nested" storage), of which a survivor reads only the remaining planes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from itertools import islice

import numpy as np

from ghostkv.codecs.base import ELEMENT_BYTES, FRAME_SLACK, RHO_BYTES, RHO_MAX, Decoded
from ghostkv.codecs.cell_tree import CODE_BITS, CellTree
from ghostkv.codecs.sizes import code_bytes
from ghostkv.codecs.whitened import Whitened
from ghostkv.files.compiled import njit
from ghostkv.files.errors import TableError

# Residual norms are stored on a geometric scale: 255 values, each this factor above the one before, the last this
# many times the largest residual seen in calibration. Deep levels have residuals of very different size.
_RHO_GROWTH, _RHO_HEADROOM = 1.0125, 3.0
# Calibration keys that the largest residual is taken from; the headroom covers the rest.
_RESIDUAL_KEYS = 4096
_TREE = tuple(one.name for one in fields(CellTree))


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
    tree_: CellTree = field(default=None, repr=False)  # of all coordinates
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
        self._take_frame(self.encoder_.astype(np.float32))
        coordinates = (keys - self.mean_) @ self.encoder_.T
        dims = coordinates.shape[1]
        if 8 * self.code_bytes > CODE_BITS * dims:
            raise ValueError(
                f"levels {self.levels} hold more than {CODE_BITS} bits for each of {dims} coordinates"
            )
        self.tree_, codes, distortion = CellTree.fit(coordinates)
        self.order_ = _order(distortion, 8 * self.code_bytes)
        some = slice(None, None, max(1, len(codes) // _RESIDUAL_KEYS))
        largest = [
            self._residual_at(coordinates[some], codes[some], level).max(initial=0.0)
            for level in range(len(self.levels))
        ]
        self.rho_top_ = _RHO_HEADROOM * np.maximum(largest, 1e-6)
        return self

    def arrays(self) -> dict[str, np.ndarray]:
        """What the fit found, in as few bytes as hold it exactly: `load` gives the same codec, bit for bit."""
        tree = {name: getattr(self.tree_, name) for name in _TREE}
        order = self.order_.astype(np.min_scalar_type(len(self.encoder_)))
        frame = {"mean": self.mean_, "encoder": self.encoder_.astype(np.float32)}
        return {**frame, **tree, "order": order, "rho_top": self.rho_top_}

    def load(self, arrays: dict[str, np.ndarray]) -> Nested:
        """Take over arrays written by `arrays`; returns self."""
        self.mean_, self.rho_top_ = arrays["mean"], arrays["rho_top"]
        self._take_frame(arrays["encoder"])
        self.tree_, self.order_ = (
            CellTree(**{name: arrays[name] for name in _TREE}),
            arrays["order"].astype(np.int64),
        )
        return self

    def _take_frame(self, encoder: np.ndarray) -> None:
        """A frame whose encoder float32 holds, and which the encoder alone defines."""
        self.encoder_ = self.metric_ = encoder.astype(np.float64)
        self.decoder_ = _inverse(self.encoder_)

    def depths(self, level: int) -> np.ndarray:
        """Bits of each coordinate that are known once `level` is read, shape [dims]."""
        bits = 8 * sum(self.levels[: level + 1])
        return np.bincount(self.order_[:bits], minlength=len(self.encoder_))

    def encode(self, keys: np.ndarray) -> NestedRecords:
        """Write records of finite keys, shape [keys, head_dim]."""
        coordinates = (np.asarray(keys, np.float64) - self.mean_) @ self.encoder_.T
        codes = self.tree_.codes(coordinates)
        rho = np.empty((len(codes), len(self.levels)), np.uint8)
        for level in range(len(self.levels)):
            residual = self._residual_at(coordinates, codes, level) * FRAME_SLACK
            rho[:, level] = np.searchsorted(self._rho_scale(level), residual, "left")
        stream = np.empty((len(codes), self.code_bytes), np.uint8)
        _pack(codes, self.order_, stream)
        return NestedRecords(tuple(np.split(stream, np.cumsum(self.levels)[:-1], axis=1)), rho)

    def decode(self, records: NestedRecords, level: int | None = None) -> Decoded:
        """Read records back up to and including `level`; by default all of them. Raises as `decode_levels`."""
        levels = self.decode_levels(records)
        return next(islice(levels, len(self.levels) - 1 if level is None else level, None))

    def decode_levels(self, records: NestedRecords) -> Iterator[Decoded]:
        """Read records back up to each level in turn.

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
        codes, first = np.zeros((len(records), len(self.encoder_)), np.uint16), 0
        for level, plane in enumerate(records.planes):
            _unpack(np.ascontiguousarray(plane), self.order_, first, codes)
            first += 8 * plane.shape[1]
            coordinates = self.tree_.rebuild(codes, self.depths(level))
            rho = np.append(self._rho_scale(level), np.inf)[records.rho[:, level]] * FRAME_SLACK
            yield self._decoded(coordinates, rho)

    def _rho_scale(self, level: int) -> np.ndarray:
        return self.rho_top_[level] * _RHO_GROWTH ** np.arange(-RHO_MAX, 1.0)

    def _residual_at(self, coordinates: np.ndarray, codes: np.ndarray, level: int) -> np.ndarray:
        """``||y - y_hat||``, which is ``||W (k - k_hat)||`` because encoder and decoder are inverse."""
        return np.linalg.norm(coordinates - self.tree_.rebuild(codes, self.depths(level)), axis=1)


def _inverse(matrix: np.ndarray) -> np.ndarray:
    """The inverse by Gauss and Jordan in float64, one operation at a time: the same bits on every machine, as LAPACK's are not."""
    count = len(matrix)
    rows = np.hstack([matrix, np.eye(count)])
    for column in range(count):
        pivot = column + np.abs(rows[column:, column]).argmax()
        rows[[column, pivot]] = rows[[pivot, column]]
        rows[column] /= rows[column, column]
        others = np.arange(count) != column
        rows[others] -= rows[others, column, None] * rows[column]
    return np.ascontiguousarray(rows[:, count:])


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
def _unpack(plane, order, first, codes):
    """The inverse of `_pack` for the part of the stream from bit `first` on; bits of other parts stay as they are."""
    known = np.zeros(codes.shape[1], np.int64)
    for t in range(first):
        known[order[t]] += 1
    bits = order[first : first + 8 * plane.shape[1]]
    shift = np.empty(bits.size, np.int64)
    for t in range(bits.size):
        shift[t] = 15 - known[bits[t]]
        known[bits[t]] += 1
    for j in range(codes.shape[0]):
        for t in range(bits.size):
            bit = (plane[j, t >> 3] >> (7 - (t & 7))) & 1
            codes[j, bits[t]] |= np.uint16(bit << shift[t])


def level_bytes(bits: Sequence[float], head_dim: int) -> tuple[int, ...]:
    """Bytes of code of the cascade's levels and of the last planes.

    With all residual bytes the record is as long as the float16 key, so that it can be stored in its place.
    """
    levels = [code_bytes(each, head_dim) for each in bits]
    rest = ELEMENT_BYTES * head_dim - sum(levels) - RHO_BYTES * (len(levels) + 1)
    return (*levels, max(1, rest))
