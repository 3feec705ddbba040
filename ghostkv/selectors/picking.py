"""Which keys a budget buys: exact top-k per query, thresholds with a hard budget, and the histograms behind them.

Reads are written as bits: bit r of a key's byte says that the key is read at the r-th budget.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ghostkv.files.compiled import njit

# Factor and increment of a linear congruential generator modulo 2^64 (Knuth, MMIX).
_LCG = np.uint64(6364136223846793005), np.uint64(1442695040888963407)


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
    for head in range(priority.shape[0]):
        for query in range(priority.shape[1]):
            cold = slice(start[query], stop[query])
            row, marks = priority[head, query, cold], reads[head, query, cold]
            left, done = row.size, False
            previous = row.size + 1
            # From the largest count down: what is not among many is not among fewer.
            while True:
                count = -1
                for budget in range(counts.shape[0]):
                    if counts[budget, head, query] < previous:
                        count = max(count, counts[budget, head, query])
                if count <= 0:
                    break
                if not done:
                    for key in range(row.size):
                        work[key] = row[key]
                    done = True
                tau = _keep_largest(work, left, count)
                left, previous = count, count
                bits = np.uint8(0)
                for budget in range(counts.shape[0]):
                    if counts[budget, head, query] == count:
                        bits |= np.uint8(1 << budget)
                _mark(row, tau, count, bits, marks)
            for budget in range(counts.shape[0]):
                if counts[budget, head, query] > row.size:
                    for key in range(row.size):
                        marks[key] |= np.uint8(1 << budget)


@njit(cache=True, nogil=True, error_model="numpy")
def find_nan(priority, start, stop):
    """Head of the first cold key whose priority [group, queries, keys] is not a number, and its query; -1 for none."""
    for head in range(priority.shape[0]):
        for query in range(priority.shape[1]):
            row, found = priority[head, query, start[query] : stop[query]], 0
            for key in range(row.size):
                found += row[key] != row[key]
            if found:
                return head, query
    return -1, -1


@njit(cache=True, nogil=True, error_model="numpy")
def pick_above(statistic, least, start, stop, reads):
    """Mark the keys whose statistic [group, queries, keys] reaches `least` [budgets, group, queries]."""
    for head in range(statistic.shape[0]):
        for query in range(statistic.shape[1]):
            cold = slice(start[query], stop[query])
            row, marks = statistic[head, query, cold], reads[head, query, cold]
            for budget in range(least.shape[0]):
                bit, cut = np.uint8(1 << budget), least[budget, head, query]
                if cut < np.inf:
                    for key in range(row.size):
                        marks[key] |= np.uint8(row[key] >= cut) * bit


@njit(cache=True, nogil=True, error_model="numpy")
def _keep_largest(work, size, k):
    """Move the `k` largest of the first `size` entries to the front; returns the smallest of them.

    Quickselect with the median of three as pivot, of places that no order of the entries foresees: what the first, middle and
    last say of an ascending row, such as priority by recency, takes quadratic time. Every step swaps and only the boundary's step
    depends on the comparison, so that there is no branch to mispredict.
    """
    low, high = 0, size
    state = np.uint64(1)
    while high - low > 1:
        wide = np.uint64(high - low)
        state = state * _LCG[0] + _LCG[1]
        a = work[low + np.int64((state >> np.uint64(33)) % wide)]
        state = state * _LCG[0] + _LCG[1]
        b = work[low + np.int64((state >> np.uint64(33)) % wide)]
        state = state * _LCG[0] + _LCG[1]
        c = work[low + np.int64((state >> np.uint64(33)) % wide)]
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
        # No progress: the pivot is not a number.
        if k <= equal or equal == low:
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
    while marked > k and j > 0:  # later ties go again
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
        Size of the bucket, in mean allowances of the queries so far.
    start, stop : ndarray of int64, shape [queries]

    Returns
    -------
    ndarray of int64, shape [budgets, group, queries]
        -1 where not feasible. What any first queries spend is at most the sum of their allowances.
    """
    budgets, queries = allowance.shape
    counts = np.empty((budgets, statistic.shape[0], queries), np.int64)
    for budget in range(budgets):
        for head in range(statistic.shape[0]):
            credit, given, least = 0.0, 0.0, theta[budget, head]
            for query in range(queries):
                if np.isnan(allowance[budget, query]):
                    counts[budget, head, query] = -1
                    continue
                credit += allowance[budget, query]
                given += allowance[budget, query]
                room = depth * given / (query + 1)
                row = statistic[head, query, start[query] : stop[query]]
                wanted = 0
                for key in range(row.size):
                    wanted += row[key] >= least
                affordable = np.floor(credit / price[query] + 1e-9)
                count = max(float(wanted), np.ceil((credit - room) / price[query]))
                count = min(count, affordable, float(row.size))
                counts[budget, head, query] = np.int64(count)
                credit -= count * price[query]
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

    def spent(self, theta: np.ndarray) -> np.ndarray:
        """What thresholds that `theta` gave cost in all, shape [budgets]."""
        above = np.append(np.cumsum(self.counts.sum(axis=0)[::-1])[::-1], 0.0)
        cell = np.where(np.isinf(theta), self.cells, np.rint((theta - self.low) / self.step))
        return above[cell.astype(np.int64)]


@njit(cache=True, nogil=True, error_model="numpy")
def _histogram(statistic, start, stop, low, step, price, counts):
    inverse = np.float32(1.0 / step)
    base, top = np.float32(low), np.float32(counts.shape[1] - 1)
    for head in range(statistic.shape[0]):
        line = counts[head]
        for query in range(statistic.shape[1]):
            row, cost = statistic[head, query, start[query] : stop[query]], price[query]
            for key in range(row.size):
                # Rounded down, so that a counted key is at or above the threshold of its cell.
                # What is not a number falls to the lowest cell.
                cell = (row[key] - base) * inverse
                cell = min(cell, top) if cell > np.float32(0) else np.float32(0)
                line[np.uint32(cell)] += cost
