"""Writing ghost records one token after the other, and what they decode to, without a detour through packed bytes.

The same numbers as `Codec.encode` and `Codec.decode`, for all KV heads of a layer in one call.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ghostkv.files.compiled import njit

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


@njit(cache=True, nogil=True, error_model="numpy", fastmath=_FAST)
def write_records(keys, first, frames, coordinates, unbound):
    """Write the records of the keys from token `first` on, decoded as the estimate needs them.

    Parameters
    ----------
    keys : ndarray of float32, shape [batch, kv_heads, tokens, head_dim]
    first : int
        The first token that has no record yet.
    coordinates : ndarray of float32, shape [batch, kv_heads, dims, capacity]
    unbound : ndarray of uint8, shape [batch, kv_heads, capacity]
        1 where the residual is beyond what a byte holds: such a key is always read.
    """
    width = keys.shape[3]
    centred, rebuilt = np.empty(width), np.empty(width)
    for row in range(keys.shape[0]):
        for head in range(keys.shape[1]):
            for token in range(first, keys.shape[2]):
                for i in range(width):
                    centred[i] = keys[row, head, token, i] - frames.mean[head, i]
                    rebuilt[i] = 0.0
                # One coordinate after the other: to the nearest level, and back.
                for c in range(frames.dims[head]):
                    centre, step, top = frames.centre[head, c], frames.step[head, c], frames.top[head, c]
                    y = 0.0
                    for i in range(width):
                        y += frames.encoder[head, c, i] * centred[i]
                    level = np.rint((y - centre) / step + top / 2)
                    level = min(max(level, 0.0), top)
                    value = np.float32(centre + (level - top / 2) * step)
                    coordinates[row, head, c, token] = value
                    for i in range(width):
                        rebuilt[i] += frames.decoder[head, c, i] * value
                # ||W (k - k_hat)||
                square = 0.0
                for r in range(width):
                    y = 0.0
                    for i in range(width):
                        y += frames.metric[head, r, i] * (centred[i] - rebuilt[i])
                    square += y * y
                unbound[row, head, token] = not (np.sqrt(square) <= 254 * frames.rho_step[head])
