"""What a cache type is: how K and V are written as tokens come, what attention reads of them, and the bytes of it."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from ghostkv.files.errors import CaptureError

# Bytes of a number in fp16: of a key or value that stays as it is, of a scale, and of a zero point.
HALF_BYTES = 2
_HALF_MAX = 65504.0


class CacheType:
    """Base of all cache types.

    Attributes
    ----------
    together : int
        Tokens whose keys are written at once. What a token becomes depends on these alone, counted from the first
        that is no padding.
    """

    together: ClassVar[int] = 1

    def quantise(self, keys: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """K and V as they are read back from so few bits, whether or not a token is still kept in fp16.

        Parameters
        ----------
        keys, values : ndarray of float32, shape [tokens, dim]
            One KV head. Keys of fewer than `together` tokens at the end stay as they are.

        Returns
        -------
        tuple of ndarray of float32
            Of the shapes of `keys` and `values`.

        Raises
        ------
        CaptureError
            A number lies beyond fp16.
        """
        raise NotImplementedError

    def pair_bytes(self, head_dim: int, value_dim: int) -> float:
        """Bytes of a written key and value, scales and zero points included."""
        raise NotImplementedError

    def kept(self, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The first token whose key, and the first whose value, is still in fp16 where a cache holds so many tokens."""
        return tokens, tokens

    def write(self, keys: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """K and V as attention reads them from a cache of these tokens; shapes and errors as `quantise`."""
        exact = (int(one) for one in self.kept(np.array(len(keys))))
        read = self.quantise(keys, values)
        for hat, own, begin in zip(read, (keys, values), exact, strict=True):
            hat[begin:] = own[begin:]
        return read

    def read_bytes(self, tokens: np.ndarray, head_dim: int, value_dim: int) -> np.ndarray:
        """Bytes of a whole cache of so many tokens, those that are kept in fp16 as such; float64, shape of `tokens`."""
        keys, values = self.kept(tokens)
        written = keys * self.pair_bytes(head_dim, 0) + values * self.pair_bytes(0, value_dim)
        return written + HALF_BYTES * ((tokens - keys) * head_dim + (tokens - values) * value_dim)


def grouped(numbers: np.ndarray, bits: int, group: int, axis: int = -1) -> np.ndarray:
    """Numbers as they are read from codes of `bits` with a scale and a zero point for every `group` along an axis.

    The zero point is the group's least number and the scale its range over ``2^bits - 1``, both rounded to fp16, from which
    codes are then taken: ``round((x - zero) / scale)``, half to even, within 0 and ``2^bits - 1``. A last group may be smaller.

    Raises
    ------
    CaptureError
        A number lies beyond fp16.
    """
    moved = np.moveaxis(numbers, axis, -1)
    width = moved.shape[-1]
    if numbers.size and np.abs(numbers).max() > _HALF_MAX:
        raise CaptureError(
            f"quantised cache: a key or value is {np.abs(numbers).max():g}, and scales are fp16. Accepted: numbers up to "
            f"{_HALF_MAX:g}.\n  Write: cache: fp16, or leave the policy out for this model"
        )
    out = np.empty(moved.shape, np.float32)
    whole = width // group * group
    for part in (slice(0, whole), slice(whole, width)):
        some = moved[..., part]
        if some.shape[-1]:
            size = min(group, some.shape[-1])
            split = some.reshape(*some.shape[:-1], some.shape[-1] // size, size)
            out[..., part] = _coded(split, bits).reshape(some.shape)
    return np.moveaxis(out, -1, axis)


def _coded(groups: np.ndarray, bits: int) -> np.ndarray:
    top = np.float32(2**bits - 1)
    least = groups.min(axis=-1, keepdims=True)
    scale = ((groups.max(axis=-1, keepdims=True) - least) / top).astype(np.float16).astype(np.float32)
    zero = least.astype(np.float16).astype(np.float32)
    steps = np.where(scale > 0, scale, np.float32(1.0))
    codes = np.clip(np.rint((groups - zero) / steps), 0, top)
    return zero + codes * scale


def scale_bytes(width: int, group: int) -> int:
    """Bytes of fp16 scales and zero points of so many numbers."""
    return 2 * HALF_BYTES * -(-width // group)
