"""Loops that read memory, and the one that counts what they read."""

from __future__ import annotations

import numpy as np

from ghostkv.files.compiled import njit


@njit(cache=True, nogil=True)
def gather(words, starts, width):
    """XOR of `width` 8-byte words from each start, eight rows side by side.

    A single row at a time leaves most of a core's miss buffers idle; side by side is how a gather would be written.
    """
    total = np.uint64(0)
    whole = starts.size - starts.size % 8
    for i in range(0, whole, 8):
        a, b, c, d = starts[i], starts[i + 1], starts[i + 2], starts[i + 3]
        e, f, g, h = starts[i + 4], starts[i + 5], starts[i + 6], starts[i + 7]
        for j in range(width):
            total ^= words[a + j] ^ words[b + j] ^ words[c + j] ^ words[d + j]
            total ^= words[e + j] ^ words[f + j] ^ words[g + j] ^ words[h + j]
    for i in range(whole, starts.size):
        for j in range(width):
            total ^= words[starts[i] + j]
    return total


@njit(cache=True, nogil=True)
def scan(words, start, count):
    """XOR of words that follow one another."""
    total = np.uint64(0)
    for i in range(start, start + count):
        total ^= words[i]
    return total


@njit(cache=True)
def marked_gather(words, starts, width, shift, marks):
    """`gather` that marks the unit (2^shift bytes) of every word that it loads."""
    total = np.uint64(0)
    for i in range(starts.size):
        for j in range(width):
            total ^= words[starts[i] + j]
            marks[(starts[i] + j) * 8 >> shift] = 1
    return total
