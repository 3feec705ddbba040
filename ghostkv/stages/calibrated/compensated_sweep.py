"""Output errors at all thresholds at once, with and without something in the eliminated keys' place.

An eliminated key still has a ghost record, so its share of the softmax is known up to the estimate's error;
only its value is not read. Standing in for the values with a mean costs no bytes per token:

    o_hat = (sum_kept e^s v + sum_E e^s_hat v_bar) / (sum_kept e^s + sum_E e^s_hat).

Divided by the softmax denominator this is ``(o - L + w v_bar) / (1 - m + w)`` with ``m`` the dropped mass,
``L = sum_E p v`` and ``w = sum_E exp(s_hat - lse)``. Thresholds eliminate nested sets, so running sums of
``m``, ``L`` and ``w`` over bins (see `ghostkv.elimination.sweep`) give every threshold's output in one pass.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ghostkv.elimination.attention import ColdRange
from ghostkv.elimination.compensation import LEFT, cold_means, running_sums, tail_weights
from ghostkv.elimination.grid import Grid, bin_row
from ghostkv.elimination.sweep import lost_outputs
from ghostkv.files.compiled import njit

# Exact masses up to it count as nothing; denormal numbers are what a processor is slow at.
_NOTHING = np.float32(1e-20)


class Tail(NamedTuple):
    """What stands in for eliminated keys on one view; any threshold rule may use it."""

    # float32, shape [group, queries, keys]: ``exp(s_hat - lse)``, the estimated softmax mass.
    weight: np.ndarray
    # float32, shape [queries, value_dim]: mean value of the query's cold keys, as a running sum would have it.
    mean: np.ndarray
    # float32, shape [queries, pages, value_dim]: mean value of the cold keys of each page; no pages where they are
    # off.
    pages: np.ndarray
    page: int  # keys per page; 0 for none


@dataclass(frozen=True)
class OutputErrors:
    """``||o - o_hat|| / ||o||`` at every threshold; arrays of float32, shape [group, queries, thetas].

    1 where all but nothing of the softmax is gone.
    """

    none: np.ndarray  # survivors' softmax renormalised
    mean: np.ndarray  # the running mean of V in the place of each eliminated value
    # The mean of its page in the place of each eliminated value; None where pages are off.
    pages: np.ndarray | None


def tail(
    estimates: np.ndarray,
    lse: np.ndarray,
    values: np.ndarray,
    visible: ColdRange,
    page: int = 0,
    out: np.ndarray | None = None,
    total: np.ndarray | None = None,
) -> Tail:
    """Prepare what stands in for eliminated keys.

    Parameters
    ----------
    estimates : ndarray of float32, shape [group, queries, keys]
        Scores as the records give them.
    lse : ndarray of float32, shape [group, queries]
        Exact log-sum-exp. It scales numerator and denominator alike and cancels: nothing exact is used of a
        key that is not read.
    values : ndarray of float32, shape [keys, value_dim]
    page : int
        Keys per page mean; 0 for none.
    out : ndarray of float32, shape [group, queries, keys], optional
        Where to write the weights.
    total : ndarray, optional
        `running_sums` of `values`, where they are known.
    """
    weight = tail_weights(estimates, lse, out)
    total = running_sums(values) if total is None else total
    mean = cold_means(values, visible, total=total)
    pages = cold_means(values, visible, page, total) if page else mean[:, :0]
    return Tail(weight=weight, mean=mean[:, 0], pages=pages, page=page)


def output_errors(
    statistic: np.ndarray,
    mass: np.ndarray,
    stand_in: Tail,
    visible: ColdRange,
    grid: Grid,
    values: np.ndarray,
    outputs: np.ndarray,
) -> OutputErrors:
    """Output errors of every threshold, without and with compensation.

    Parameters
    ----------
    statistic, mass : ndarray of float32, shape [group, queries, keys]
        As `ghostkv.elimination.sweep.sweep` takes them.
    values : ndarray of float32, shape [keys, value_dim]
    outputs : ndarray of float32, shape [group, queries, value_dim]
        Exact outputs.
    """
    shape = (*statistic.shape[:2], len(grid.theta))
    error = np.zeros((3 if stand_in.page else 2, *shape), np.float32)
    _errors(
        _TailKeys(statistic=statistic, mass=mass, start=visible.start, stop=visible.stop),
        stand_in,
        grid,
        values,
        outputs,
        error,
    )
    return OutputErrors(none=error[0], mean=error[1], pages=error[2] if stand_in.page else None)


class _TailKeys(NamedTuple):
    """As `output_errors` takes them; first cold key and end of the cold ones of each query."""

    statistic: np.ndarray
    mass: np.ndarray
    start: np.ndarray
    stop: np.ndarray


@njit(cache=True, nogil=True, error_model="numpy")
def _errors(keys, stand_in, grid, values, outputs, error):
    """Fill `error` [2 or 3, group, queries, thetas]; the third is of page means."""
    group, queries, count = keys.statistic.shape
    thetas, width, page = error.shape[3], values.shape[1], stand_in.page
    guess, bins = np.empty(count, np.uint32), np.empty(count, np.uint32)
    sums = np.empty((thetas + 1, 2), np.float64)
    lost = np.empty((thetas + 1, width), np.float32)
    paged = np.empty((thetas + 1 if page else 0, width), np.float32)
    for query in range(queries):
        start = keys.start[query]
        cold = slice(start, max(keys.stop[query], start))
        row = bins[: cold.stop - cold.start]
        for head in range(group):
            mass, weight = keys.mass[head, query, cold], stand_in.weight[head, query, cold]
            bin_row(keys.statistic[head, query, cold], grid, guess[: row.size], row)
            _add_masses(row, mass, weight, sums)
            lost_outputs(row, mass, _NOTHING, values[cold], lost)
            if page:
                _add_pages(row, weight, stand_in.pages[query], page, start, paged)
            _finish_row(sums, lost, paged, outputs[head, query], stand_in.mean[query], error[:, head, query])


@njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def _add_masses(bins, mass, weight, sums):
    """Mass and estimated mass of each bin; the last bin is what no threshold eliminates."""
    sums[:] = 0.0
    last = np.uint64(sums.shape[0] - 1)
    for j in range(bins.size):
        place, key = np.uint64(bins[j]), np.uint64(j)
        if place < last:
            sums[place, 0] += mass[key] if mass[key] > _NOTHING else np.float32(0)
            sums[place, 1] += weight[key]


@njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def _add_pages(bins, weight, pages, page, first, paged):
    """What the page means put in the place of each bin's values."""
    paged[:] = 0.0
    width, last = pages.shape[1], np.uint64(paged.shape[0] - 1)
    for j in range(bins.size):
        place = np.uint64(bins[j])
        if place < last:
            w, its_page = weight[np.uint64(j)], np.uint64((first + j) // page)
            for v in range(width):
                paged[place, np.uint64(v)] += w * pages[its_page, np.uint64(v)]


@njit(cache=True, nogil=True, fastmath={"contract", "reassoc"}, error_model="numpy")
def _finish_row(sums, lost, paged, output, mean, error):
    """Running sums over bins, then the three errors of each threshold.

    With ``o_hat = (o - L + w v_bar) / (1 - m + w)``: ``o - o_hat = (L + (w - m) o - w v_bar) / (1 - m + w)``.
    """
    width, square = output.size, np.float32(0)
    for v in range(width):
        square += output[np.uint64(v)] * output[np.uint64(v)]
    norm = 1.0 / np.sqrt(max(square, np.float32(1e-30)))
    dropped, estimated = 0.0, 0.0
    for t in range(error.shape[1]):
        here, before = lost[t], lost[max(t - 1, 0)]
        dropped += sums[t, 0]
        estimated += sums[t, 1]
        kept = 1.0 - dropped
        whole = kept + estimated
        # Divided before it is squared: no weight, however large, overflows.
        m, w, part = np.float32(dropped), np.float32(estimated), np.float32(1.0 / whole)
        grow = np.float32(t > 0)
        plain, compensated = np.float32(0), np.float32(0)
        for j in range(width):
            v = np.uint64(j)
            here[v] += grow * before[v]
            gap = here[v] - m * output[v]
            filled = part * (gap + w * (output[v] - mean[v]))
            plain += gap * gap
            compensated += filled * filled
        error[0, t] = np.sqrt(plain) * norm / kept if kept > LEFT else 1.0
        error[1, t] = np.sqrt(compensated) * norm if whole > LEFT else 1.0
        if error.shape[0] > 2:
            by_page, instead, sooner = np.float32(0), paged[t], paged[max(t - 1, 0)]
            for j in range(width):
                v = np.uint64(j)
                instead[v] += grow * sooner[v]
                gap = part * (here[v] + (w - m) * output[v] - instead[v])
                by_page += gap * gap
            error[2, t] = np.sqrt(by_page) * norm if whole > LEFT else 1.0
