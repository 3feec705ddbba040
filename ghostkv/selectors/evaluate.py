"""Quality and bytes of a selection, against exact attention."""

from __future__ import annotations

import numpy as np

from ghostkv.elimination.compensation import cold_means, compensate, tail_weights
from ghostkv.files.compiled import njit
from ghostkv.selectors.base import Budget, Scene, Selection
from ghostkv.selectors.scenes import SceneTruth

# Kept mass below this, as a share of all, is recomputed from scores: float32 probabilities underflow.
_TINY = 1e-30
# Keys whose values are added up for one query after the other: 1 MB of V of head_dim 64, which stays in cache.
_KEYS = 4096


def evaluate(selection: Selection, scene: Scene, truth: SceneTruth, budget: Budget) -> dict[str, np.ndarray]:
    """Quality and bytes of a selection, per query.

    Returns
    -------
    dict of ndarray, shape [ratios, group, queries]
        `recall_32` (of the 32 best cold keys, the share read), `fer` (of the exact top-k of all visible keys,
        the share lost), `dropped_mass`, `output_error` (where values are known), and of the KV head, the same for all of its
        heads, `bytes_ratio_gqa` and `index_ratio`. Ratios that are not feasible hold NaN.
    """
    visible, ratios = scene.visible, len(budget.ratios)
    shape = (1 << ratios, *truth.mass.shape[:2])
    width = 0 if truth.values is None else truth.values.shape[1]
    counts, masses = np.zeros((3, *shape)), np.zeros(shape)
    sums = np.zeros((*shape[1:], 1 << ratios, max(width, 1)), np.float32)
    compensated = selection.tail is not None
    tails = np.zeros(shape if compensated else (0, 0, 0))
    nothing = np.zeros((1, 1, 1), np.float32)
    # The selector is done with its spare array.
    weights = tail_weights(selection.tail, truth.lse, scene._spare) if compensated else nothing
    _accumulate(
        selection.reads, truth.mass, truth.relevant, visible.start, visible.stop, counts, masses,
        nothing[0] if truth.values is None else truth.values, width, sums, weights, tails,
    )  # fmt: skip
    # Patterns of bits become ratios: a key counts at every ratio of its pattern.
    member = np.array([[pattern >> r & 1 for pattern in range(1 << ratios)] for r in range(ratios)], float)
    count, found, cold_32 = (np.tensordot(member, part, 1) for part in counts)
    kept_mass = np.tensordot(member, masses, 1)
    queries = {
        "recall_32": cold_32 / np.maximum(truth.cold_32, 1),
        "fer": (truth.top_k_cold - found) / np.maximum(truth.top_k, 1),
        "dropped_mass": np.maximum(truth.cold_mass - kept_mass, 0.0),
    }
    if width:
        kept = truth.kept_output + np.einsum("rp,gqpv->rgqv", member, sums)
        mass = truth.kept_mass + kept_mass
        missing = np.tensordot(1 - member, tails, 1)[..., None] if compensated else None
        queries["output_error"] = _errors(selection, scene, truth, kept, mass, missing)
    full = visible.visible * budget.pair_bytes
    exact = (visible.visible - visible.cold) * budget.pair_bytes
    index = selection.index_bytes[:, None]
    queries["bytes_ratio_gqa"] = (exact + index + count * budget.pair_bytes) / full
    queries["index_ratio"] = np.repeat(index / full, count.shape[1], axis=1)
    for values in queries.values():
        values[~selection.feasible] = np.nan
    return queries


def _errors(selection, scene, truth, kept, mass, missing) -> np.ndarray:
    """Relative error of the output at each ratio; compensated or reweighted where the selection says so."""
    if selection.log_weight is not None:
        kept, mass = _reweighted(selection, scene, truth)
    if missing is not None:
        output = compensate(kept, mass, missing, cold_means(truth.values, scene.visible))
    else:
        with np.errstate(invalid="ignore"):
            output = kept / mass[..., None]
        for r, g, q in np.argwhere((mass < _TINY) & selection.feasible[:, None, None]):
            output[r, g, q] = _from_scores(selection, scene, truth, r, g, q)
        if selection.tail_share is not None:
            share = selection.tail_share[..., None]
            output = (1 - share) * output + share * cold_means(truth.values, scene.visible)[:, 0]
    difference = np.linalg.norm(output - truth.outputs, axis=-1)
    return difference / np.maximum(np.linalg.norm(truth.outputs, axis=-1), np.finfo(np.float32).tiny)


def _from_scores(selection, scene, truth, r, g, q) -> np.ndarray:
    """Output of one query whose kept keys all have vanishing mass: their softmax among themselves."""
    kept = np.isfinite(scene.known[g, q]) | (selection.reads[q] >> r & 1 == 1)
    scores = truth.scores[g, q, kept].astype(np.float64)
    weights = np.exp(scores - scores.max())
    return weights @ truth.values[kept] / weights.sum()


def _reweighted(selection, scene, truth) -> tuple[np.ndarray, np.ndarray]:
    kept, mass = [], []
    for r, log_weight in enumerate(selection.log_weight):
        sums, total = truth.kept_output.copy(), truth.kept_mass.copy()
        visible = scene.visible
        _add_weighted(
            selection.reads, np.uint8(1 << r), truth.mass, log_weight, visible.start, visible.stop,
            truth.values, sums, total,
        )  # fmt: skip
        kept.append(sums)
        mass.append(total)
    return np.stack(kept), np.stack(mass)


@njit(cache=True, nogil=True, error_model="numpy")
def _accumulate(reads, mass, relevant, start, stop, counts, masses, values, width, sums, weights, tails):
    """Counts, mass and value sums of every pattern of bits that reads a key; tail weights of all patterns."""
    # Values of long texts are read from memory once a block of keys, not once a query.
    for block in range(0, mass.shape[2], _KEYS):
        for g in range(mass.shape[0]):
            for q in range(mass.shape[1]):
                for j in range(max(start[q], block), min(stop[q], block + _KEYS)):
                    bits = reads[q, j]
                    if bits:
                        p, flags = mass[g, q, j], relevant[g, q, j]
                        masses[bits, g, q] += p
                        counts[0, bits, g, q] += 1
                        counts[1, bits, g, q] += flags & 1
                        counts[2, bits, g, q] += (flags >> 1) & 1
                        row = sums[g, q, bits]
                        for c in range(width):
                            row[c] += p * values[j, c]
    # Of each pattern by itself: a difference of sums would lose a small one beside a large one.
    for g in range(tails.shape[1]):
        for q in range(tails.shape[2]):
            for j in range(start[q], stop[q]):
                tails[reads[q, j], g, q] += weights[g, q, j]


@njit(cache=True, nogil=True, error_model="numpy")
def _add_weighted(reads, bit, mass, log_weight, start, stop, values, sums, total):
    for g in range(mass.shape[0]):
        for q in range(mass.shape[1]):
            row = sums[g, q]
            for j in range(start[q], stop[q]):
                if reads[q, j] & bit:
                    p = mass[g, q, j] * np.exp(log_weight[g, q, j])
                    total[g, q] += p
                    for c in range(values.shape[1]):
                        row[c] += p * values[j, c]
