"""Writing ghost records one token after the other, and what they decode to, without a detour through packed bytes.

The same numbers as `Codec.encode` and `Codec.decode`, for all KV heads of a layer in one call.
"""

from __future__ import annotations

import numpy as np
from numba import njit

# Sums may be reordered, and keys are finite.
_FAST = {"contract", "reassoc", "nsz", "nnan"}


@njit(cache=True, nogil=True, error_model="numpy", fastmath=_FAST)
def write_records(
    keys, first, mean, encoder, decoder, metric, centre, step, top, rho_step, dims, coordinates, unbound
):  # fmt: skip
    """Write the records of the keys from token `first` on, decoded as the estimate needs them.

    Parameters
    ----------
    keys : ndarray of float32, shape [batch, kv_heads, tokens, head_dim]
    first : int
        The first token that has no record yet.
    mean, encoder, decoder, metric : ndarrays of float64 with kv_heads in front
        Frames, padded to the most coordinates of any KV head.
    centre, step, top : ndarray of float64, shape [kv_heads, dims]
        Quantiser; top is the highest level.
    rho_step : ndarray of float64, shape [kv_heads]
    dims : ndarray of int64, shape [kv_heads]
        Coordinates that a KV head's records have.
    coordinates : ndarray of float32, shape [batch, kv_heads, dims, capacity]
    unbound : ndarray of uint8, shape [batch, kv_heads, capacity]
        1 where the residual is beyond what a byte holds: such a key is always read.
    """
    width = keys.shape[3]
    centred, rebuilt = np.empty(width), np.empty(width)
    for b in range(keys.shape[0]):
        for h in range(keys.shape[1]):
            for n in range(first, keys.shape[2]):
                for i in range(width):
                    centred[i] = keys[b, h, n, i] - mean[h, i]
                    rebuilt[i] = 0.0
                for c in range(dims[h]):
                    y = 0.0
                    for i in range(width):
                        y += encoder[h, c, i] * centred[i]
                    level = np.rint((y - centre[h, c]) / step[h, c] + top[h, c] / 2)
                    level = min(max(level, 0.0), top[h, c])
                    value = np.float32(centre[h, c] + (level - top[h, c] / 2) * step[h, c])
                    coordinates[b, h, c, n] = value
                    for i in range(width):
                        rebuilt[i] += decoder[h, c, i] * value
                square = 0.0
                for r in range(width):
                    y = 0.0
                    for i in range(width):
                        y += metric[h, r, i] * (centred[i] - rebuilt[i])
                    square += y * y
                unbound[b, h, n] = np.sqrt(square) > 254 * rho_step[h]
