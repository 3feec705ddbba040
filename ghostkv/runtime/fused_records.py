"""Writing ghost records one token after the other, and what they decode to, without a detour through packed bytes.

The same numbers as `Codec.encode` and `Codec.decode`, for all KV heads of a layer in one call.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ghostkv.codecs import Codec
from ghostkv.codecs.base import FRAME_SLACK, RHO_MAX
from ghostkv.codecs.field_code import ROW_BITS
from ghostkv.codecs.quantiser import UniformQuantiser
from ghostkv.codecs.turned import Turned
from ghostkv.files.compiled import njit
from ghostkv.runtime.lanes import LANES, number

# Bytes of each key in a row of a block.
_ROW = ROW_BITS // 8
# Sums may be reordered. What is not a number means something here: its key is bounded by nothing.
_FAST = {"contract", "reassoc", "nsz"}


class RecordFrames(NamedTuple):
    """The codecs of a layer's KV heads as records are written; float64 with kv_heads in front."""

    mean: np.ndarray  # [kv_heads, head_dim]
    # [kv_heads, dims, head_dim]; padded to the most coordinates of any KV head
    encoder: np.ndarray
    decoder: np.ndarray
    metric: np.ndarray  # [kv_heads, head_dim, head_dim]
    # [kv_heads, dims]; quantiser; top is the highest level
    centre: np.ndarray
    step: np.ndarray
    top: np.ndarray
    rho_step: np.ndarray  # [kv_heads]
    dims: np.ndarray  # int64 [kv_heads]; coordinates that a KV head's records have

    @classmethod
    def of(cls, codecs: Sequence[Codec]) -> RecordFrames:
        """From one fitted codec per KV head, all of the same size; of turned keys every level is 0."""
        width, most = len(codecs[0].mean_), max(len(codec.encoder_) for codec in codecs)

        def padded(arrays: Sequence[np.ndarray], shape: tuple[int, ...], fill: float = 0.0) -> np.ndarray:
            out = np.full((len(arrays), *shape), fill)
            for row, array in zip(out, arrays, strict=True):
                row[: len(array)] = array
            return out

        quantisers = [
            # The codes of turned keys are no levels of these coordinates.
            UniformQuantiser(*(np.zeros(len(codec.encoder_), kind) for kind in (int, float, float)))
            if isinstance(codec, Turned)
            else codec.quantiser_
            for codec in codecs
        ]
        return cls(
            mean=np.stack([codec.mean_ for codec in codecs]).astype(np.float64),
            encoder=padded([codec.encoder_ for codec in codecs], (most, width)),
            # Rows are coordinates here too, so that both loops run along memory.
            decoder=padded([codec.decoder_.T for codec in codecs], (most, width)),
            metric=np.ascontiguousarray(np.stack([codec.metric_ for codec in codecs]).astype(np.float64)),
            centre=padded([one.centre for one in quantisers], (most,)),
            step=padded([one.step for one in quantisers], (most,), 1.0),
            top=padded([((1 << one.bits) - 1).astype(np.float64) for one in quantisers], (most,)),
            rho_step=np.array([codec.rho_step_ for codec in codecs]),
            dims=np.array([len(codec.encoder_) for codec in codecs], np.int64),
        )


@njit(cache=True, nogil=True, error_model="numpy", fastmath=_FAST)
def quantised(key, frames, head, levels, values, room):
    """Fill in the levels of a key, float64 [dims], and the float32 numbers that they stand for; returns ``||W (k - k_hat)||``.

    Parameters
    ----------
    key : ndarray of float32, or of uint16 for bfloat16, shape [head_dim]
    room : ndarray of float64, shape [2, head_dim]
    """
    width = key.size
    centred, rebuilt = room[0], room[1]
    for i in range(width):
        centred[i] = number(key[i]) - frames.mean[head, i]
        rebuilt[i] = 0.0
    # One coordinate after the other: to the nearest level, and back.
    for c in range(frames.dims[head]):
        centre, step, top = frames.centre[head, c], frames.step[head, c], frames.top[head, c]
        y = 0.0
        for i in range(width):
            y += frames.encoder[head, c, i] * centred[i]
        level = np.rint((y - centre) / step + top / 2)
        levels[c] = min(max(level, 0.0), top)
        values[c] = np.float32(centre + (levels[c] - top / 2) * step)
        for i in range(width):
            rebuilt[i] += frames.decoder[head, c, i] * values[c]
    square = 0.0
    for r in range(width):
        y = 0.0
        for i in range(width):
            y += frames.metric[head, r, i] * (centred[i] - rebuilt[i])
        square += y * y
    return np.sqrt(square)


@njit(cache=True, nogil=True, error_model="numpy", fastmath=_FAST)
def write_records(keys, first, tokens, frames, coordinates, unbound):
    """Write the records of the keys first..tokens, decoded as the estimate needs them.

    Parameters
    ----------
    keys : ndarray of float32, shape [batch, kv_heads, tokens or more, head_dim]
    coordinates : ndarray of float32, shape [batch, kv_heads, dims, capacity]
    unbound : ndarray of uint8, shape [batch, kv_heads, capacity]
        1 where the residual is beyond what a byte holds: such a key is always read.
    """
    dims = frames.encoder.shape[1]
    levels, values, room = np.empty(dims), np.empty(dims, np.float32), np.empty((2, keys.shape[3]))
    for row in range(keys.shape[0]):
        for head in range(keys.shape[1]):
            for token in range(first, tokens):
                residual = quantised(keys[row, head, token], frames, head, levels, values, room)
                for c in range(frames.dims[head]):
                    coordinates[row, head, c, token] = values[c]
                unbound[row, head, token] = not (residual <= 254 * frames.rho_step[head])


@njit(cache=True, nogil=True, error_model="numpy", fastmath=_FAST)
def write_packed(keys, first, tokens, frames, places, codes, rho):
    """Write the records of the keys first..tokens in blocks of 16, as they are stored.

    Parameters
    ----------
    keys : ndarray of float32, or of uint16 for bfloat16, shape [batch, kv_heads, tokens or more, head_dim]
    places : ndarray of int64, shape [kv_heads, dims, 2]
        Byte of a record that a coordinate's level lies in, and by how much it is shifted.
    codes : ndarray of uint8, shape [batch, kv_heads, blocks, 16 * bytes]
    rho : ndarray of uint8, shape [batch, kv_heads, 16 * blocks]
        255 where the residual is beyond what a byte holds: such a key is always read.
    """
    dims = frames.encoder.shape[1]
    levels, values, room = np.empty(dims), np.empty(dims, np.float32), np.empty((2, keys.shape[3]))
    each = codes.shape[3] // LANES
    for row in range(keys.shape[0]):
        for head in range(keys.shape[1]):
            for token in range(first, tokens):
                residual = quantised(keys[row, head, token], frames, head, levels, values, room)
                block, lane = codes[row, head, token // LANES], token % LANES
                for byte in range(each):
                    block[byte // _ROW * _ROW * LANES + lane * _ROW + byte % _ROW] = 0
                for c in range(frames.dims[head]):
                    byte = places[head, c, 0]
                    at = byte // _ROW * _ROW * LANES + lane * _ROW + byte % _ROW
                    block[at] |= np.uint8(np.int64(levels[c]) << places[head, c, 1])
                steps = np.ceil(residual * FRAME_SLACK / frames.rho_step[head])
                rho[row, head, token] = np.uint8(steps) if steps <= RHO_MAX else np.uint8(255)
