"""The best few of many, in a short ascending list whose worst falls out."""

from __future__ import annotations

from ghostkv.files.compiled import njit


@njit(cache=True, nogil=True, error_model="numpy")
def insert(best, x):
    """Put `x` into the ascending list in the place of its worst; only where ``x > best[0]``."""
    place = 0
    while place + 1 < best.size and best[place + 1] < x:
        best[place] = best[place + 1]
        place += 1
    best[place] = x


@njit(cache=True, nogil=True, error_model="numpy")
def keep_best(values, least, best):
    """Put every entry of at least `least` that beats the worst of the list into it.

    Parameters
    ----------
    values : ndarray of float32, shape [values]
    least : float32
        -inf where nothing is known of the k-th best.
    best : ndarray of float32, shape [k]
        Ascending; -inf where fewer are known.
    """
    for i in range(values.size):
        if values[i] >= least and values[i] > best[0]:
            insert(best, values[i])
