"""Which keys a budget buys: exact top-k per query, thresholds with a hard budget, and the histograms behind
them.

Reads are written as bits: bit r of a key's byte says that the key is read at the r-th budget.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numba import njit


@njit(cache=True, nogil=True, error_model="numpy")
def pick_top(priority, counts, start, stop, reads):
    """Mark the keys of highest priority; of equal ones the earliest.

    Parameters
    ----------
    priority : ndarray of float32, shape [group, queries, keys]
        No NaN.
    counts : ndarray of int64, shape [budgets, group, queries]
        How many cold keys to read; negative where the budget is not feasible.
    start, stop : ndarray of int64, shape [queries]
        Cold keys.
    reads : ndarray of uint8, shape [group, queries, keys]
        Bits are added.
    """
    work = np.empty(priority.shape[2], np.float32)
    for g in range(priority.shape[0]):
        for q in range(priority.shape[1]):
            row, marks = priority[g, q, start[q] : stop[q]], reads[g, q, start[q] : stop[q]]
            left, done = row.size, False
            previous = row.size + 1
            # From the largest count down: what is not among many is not among fewer.
            while True:
                k = -1
                for r in range(counts.shape[0]):
                    if counts[r, g, q] < previous:
                        k = max(k, counts[r, g, q])
                if k <= 0:
                    break
                if not done:
                    for j in range(row.size):
                        work[j] = row[j]
                    done = True
                tau = _keep_largest(work, left, k)
                left, previous = k, k
                bits = np.uint8(0)
                for r in range(counts.shape[0]):
                    if counts[r, g, q] == k:
                        bits |= np.uint8(1 << r)
                _mark(row, tau, k, bits, marks)
            for r in range(counts.shape[0]):
                if counts[r, g, q] > row.size:
                    for j in range(row.size):
                        marks[j] |= np.uint8(1 << r)


@njit(cache=True, nogil=True, error_model="numpy")
def pick_above(statistic, least, start, stop, reads):
    """Mark the keys whose statistic [group, queries, keys] reaches `least` [budgets, group, queries]."""
    for g in range(statistic.shape[0]):
        for q in range(statistic.shape[1]):
            row, marks = statistic[g, q, start[q] : stop[q]], reads[g, q, start[q] : stop[q]]
            for r in range(least.shape[0]):
                bit, cut = np.uint8(1 << r), least[r, g, q]
                if cut < np.inf:
                    for j in range(row.size):
                        marks[j] |= np.uint8(row[j] >= cut) * bit


@njit(cache=True, nogil=True, error_model="numpy")
def pick_pages(order, counts, start, stop, page, reads):
    """Mark whole pages in their order until the next one has more cold keys than are left of `counts`."""
    for g in range(order.shape[0]):
        for q in range(order.shape[1]):
            for r in range(counts.shape[0]):
                room = counts[r, g, q]
                for p in order[g, q]:
                    low, high = max(p * page, start[q]), min((p + 1) * page, stop[q])
                    if high <= low:
                        continue  # no cold key in this page
                    if high - low > room:
                        break
                    room -= high - low
                    for j in range(low, high):
                        reads[g, q, j] |= np.uint8(1 << r)


@njit(cache=True, nogil=True, error_model="numpy")
def sum_left(reads, mass, start, stop, share):
    """Add up the mass of keys that are not read, by budget."""
    for g in range(reads.shape[0]):
        for q in range(reads.shape[1]):
            for j in range(start[q], stop[q]):
                for r in range(share.shape[0]):
                    if not (reads[g, q, j] >> r) & 1:
                        share[r, g, q] += mass[g, q, j]


@njit(cache=True, nogil=True, error_model="numpy")
def _keep_largest(work, size, k):
    """Move the `k` largest of the first `size` entries to the front; returns the smallest of them.

    Quickselect with the median of three as pivot. Every step swaps and only the boundary's step depends on
    the comparison, so that there is no branch to mispredict.
    """
    low, high = 0, size
    while high - low > 1:
        a, b, c = work[low], work[(low + high) // 2], work[high - 1]
        pivot = max(min(a, b), min(max(a, b), c))
        above = low
        for j in range(low, high):
            x = work[j]
            work[j] = work[above]
            work[above] = x
            above += x > pivot
        if k <= above:
            high = above
            continue
        equal = above
        for j in range(above, high):
            x = work[j]
            work[j] = work[equal]
            work[equal] = x
            equal += x == pivot
        if k <= equal:
            return pivot
        low = equal
    return work[k - 1]


@njit(cache=True, nogil=True, error_model="numpy")
def _mark(row, tau, k, bits, marks):
    """Mark the `k` keys at or above tau, of those that tie with it the earliest."""
    marked = 0
    for j in range(row.size):
        inside = row[j] >= tau
        marks[j] |= np.uint8(inside) * bits
        marked += inside
    j = row.size
    while marked > k:  # later ties go again
        j -= 1
        if row[j] == tau:
            marks[j] &= ~bits
            marked -= 1


@njit(cache=True, nogil=True, error_model="numpy")
def threshold_counts(statistic, theta, allowance, price, depth, start, stop):
    """How many keys each query reads under a threshold that may not overspend.

    A token bucket: every query brings its allowance, unspent allowance is kept for later queries, and no
    query spends what is not there. What overflows the bucket is spent at once, so that a threshold that was
    chosen too strict on calibration text does not leave bytes unused.

    Parameters
    ----------
    statistic : ndarray of float32, shape [group, queries, keys]
        Keys at or above theta are wanted.
    theta : ndarray of float32, shape [budgets, group]
    allowance : ndarray of float64, shape [budgets, queries]
        What each query may add to the bucket; NaN where not feasible.
    price : ndarray of float64, shape [queries]
        What one key costs a query.
    depth : float
        Size of the bucket, in mean allowances.
    start, stop : ndarray of int64, shape [queries]

    Returns
    -------
    ndarray of int64, shape [budgets, group, queries]
        -1 where not feasible. What any first queries spend is at most the sum of their allowances.
    """
    budgets, queries = allowance.shape
    counts = np.empty((budgets, statistic.shape[0], queries), np.int64)
    for r in range(budgets):
        room = depth * allowance[r].mean()
        for g in range(statistic.shape[0]):
            credit, least = 0.0, theta[r, g]
            for q in range(queries):
                if np.isnan(allowance[r, q]):
                    counts[r, g, q] = -1
                    continue
                credit += allowance[r, q]
                row = statistic[g, q, start[q] : stop[q]]
                wanted = 0
                for j in range(row.size):
                    wanted += row[j] >= least
                affordable = np.floor(credit / price[q] + 1e-9)
                k = max(float(wanted), np.ceil((credit - room) / price[q]))
                k = min(k, affordable, float(row.size))
                counts[r, g, q] = np.int64(k)
                credit -= k * price[q]
    return counts


class ThresholdHistogram:
    """Chooses thresholds that read a given number of keys in all, over any number of texts.

    Parameters
    ----------
    low, high : float
        Range of thetas; statistics outside fall to its ends.
    cells : int
        Thetas to choose from.
    """

    def __init__(self, low: float, high: float, cells: int = 4096):
        self.low, self.step = low, (high - low) / cells
        self.cells = cells
        self.counts: np.ndarray | None = None

    def add(self, statistic: np.ndarray, start: np.ndarray, stop: np.ndarray, price: np.ndarray) -> None:
        """Count the cold keys of a text; `price` [queries] is what one key at or above a threshold costs."""
        if self.counts is None:
            self.counts = np.zeros((statistic.shape[0], self.cells))
        _histogram(statistic, start, stop, self.low, self.step, price, self.counts)

    def theta(self, totals: Sequence[float]) -> np.ndarray:
        """The smallest thresholds whose total cost is at most `totals`, shape [budgets, group].

        Infinite where not even the highest threshold is affordable, or the total is NaN.
        """
        spent = np.cumsum(self.counts[:, ::-1], axis=1)[:, ::-1]  # of threshold low + step * cell
        found = np.full((len(totals), len(spent)), np.inf, np.float32)
        for r, total in enumerate(totals):
            cell = (spent > total).sum(axis=1)
            affordable = (cell < self.cells) & ~np.isnan(total)
            found[r, affordable] = (self.low + self.step * cell)[affordable]
        return found


@njit(cache=True, nogil=True, error_model="numpy")
def _histogram(statistic, start, stop, low, step, price, counts):
    inverse = np.float32(1.0 / step)
    base, top = np.float32(low), np.float32(counts.shape[1] - 1)
    for g in range(statistic.shape[0]):
        line = counts[g]
        for q in range(statistic.shape[1]):
            row, cost = statistic[g, q, start[q] : stop[q]], price[q]
            for j in range(row.size):
                # Rounded down, so that a counted key is at or above the threshold of its cell.
                cell = min(max((row[j] - base) * inverse, np.float32(0)), top)
                line[np.uint32(cell)] += cost
