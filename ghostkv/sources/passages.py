"""How much two texts share, and how much a text repeats itself, counted in passages of 32 tokens."""

from __future__ import annotations

import numpy as np

PASSAGE = 32  # tokens; unrelated texts hardly ever agree in so many


def passages(ids: np.ndarray) -> np.ndarray:
    """Hashes of all windows of `PASSAGE` tokens, sorted and unique, uint64."""
    return np.unique(_window_hashes(ids))


def shared_share(first: np.ndarray, second: np.ndarray) -> float:
    """Share of the smaller text's passages that the other one has too; both as `passages` gives them."""
    smaller = min(len(first), len(second))
    return len(np.intersect1d(first, second, assume_unique=True)) / smaller if smaller else 0.0


def repeated_share(ids: np.ndarray) -> float:
    """Share of a text's passages that stood in it before; 0 for a text without a whole passage."""
    hashes = _window_hashes(ids)
    return 1 - len(np.unique(hashes)) / len(hashes) if len(hashes) else 0.0


def _window_hashes(ids: np.ndarray) -> np.ndarray:
    ids = np.asarray(ids, np.uint64)
    count = len(ids) - PASSAGE + 1
    hashes = np.zeros(max(count, 0), np.uint64)
    for offset in range(PASSAGE if count > 0 else 0):
        # Horner's rule modulo 2^64 with an odd multiplier.
        hashes = hashes * np.uint64(0x9E3779B97F4A7C15) + ids[offset : offset + count]
    return hashes
