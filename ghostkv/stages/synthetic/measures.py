"""What is measured of generated tensors beyond the frontier's own numbers: ranks, and a decode step by step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ghostkv.elimination.attention import TOP_K
from ghostkv.elimination.frontier import Design, Estimates, GroupView, Setting
from ghostkv.elimination.metrics import bytes_ratio
from ghostkv.elimination.thresholds import reference, statistic, union_survivors

# Rank correlations take one query in so many: sorting all keys is the dearest thing here, and queries of one
# projection repeat each other.
_RANKED = 4


@dataclass(frozen=True)
class ColdScores:
    """Scores of the keys that are cold for every query of a view, and what of them need be found once."""

    exact: np.ndarray  # float32 [rows, keys]: a row a (head, query)
    cold: slice  # those keys among all
    best: np.ndarray  # int64 [rows, top]: the best keys of each row, best first
    ranks: np.ndarray  # [rows / 4, keys]

    @classmethod
    def of(cls, view: GroupView, top: int) -> ColdScores:
        cold = slice(int(view.visible.start.max()), int(view.visible.stop.min()))
        exact = view.exact.scores[..., cold].reshape(-1, cold.stop - cold.start)
        return cls(exact, cold, best_keys(exact, top), average_ranks(exact[::_RANKED]))

    def overlap(self, estimates: np.ndarray, tops: Sequence[int]) -> dict[int, float]:
        """Mean share of the best `top` keys that are among as many best estimates, for each `top`."""
        same = self.best[:, :, None] == best_keys(estimates, self.best.shape[1])[:, None, :]
        return {top: float(same[:, :top, :top].sum(axis=(1, 2)).mean() / top) for top in tops}

    def spearman(self, estimates: np.ndarray) -> float:
        """Mean rank correlation of exact scores and estimates, over a quarter of the queries."""
        ours, theirs = self.ranks, average_ranks(estimates[::_RANKED])
        centre = (ours.shape[1] + 1) / 2.0
        ours, theirs = ours - centre, theirs - centre
        spread = np.sqrt((ours**2).sum(axis=1) * (theirs**2).sum(axis=1))
        return float(((ours * theirs).sum(axis=1) / np.maximum(spread, 1e-30)).mean())


def best_keys(scores: np.ndarray, top: int) -> np.ndarray:
    """Indices of the `top` largest of each row, largest first, shape [rows, top]."""
    top = min(top, scores.shape[1])
    best = np.argpartition(scores, scores.shape[1] - top, axis=1)[:, -top:]
    order = np.argsort(-np.take_along_axis(scores, best, axis=1), axis=1, kind="stable")
    return np.take_along_axis(best, order, axis=1)


def average_ranks(scores: np.ndarray) -> np.ndarray:
    """Ranks from 1 within each row, equal scores sharing their mean rank; shape [rows, keys].

    As `scipy.stats.rankdata`, whose import takes longer than the ranks.
    """
    ranks = np.empty(scores.shape)
    for row, out in zip(scores, ranks, strict=True):
        order = np.argsort(row)
        ordered = row[order]
        if (ordered[1:] > ordered[:-1]).all():
            out[order] = np.arange(1, len(row) + 1)
        else:
            out[:] = (np.searchsorted(ordered, row, "left") + np.searchsorted(ordered, row, "right") + 1) / 2
    return ranks


def step_columns(
    view: GroupView,
    design: Design,
    known: Estimates,
    rule: str,
    theta: np.ndarray,
    setting: Setting,
    asked: np.ndarray,
) -> dict[str, np.ndarray]:
    """What each step of a decode reads and loses, one threshold a head: columns of shape [queries].

    The view's queries are steps. `theta` [group] is -inf for a head that eliminates nothing; `asked` [queries] is the
    key that a step asks for, -1 for none. Columns are means over the heads of a group, `_worst` the worst head;
    `needle_*` are NaN where nothing was asked.
    """
    visible, theta = view.visible, np.asarray(theta, np.float32)
    origin = reference(rule, known.known, visible, setting.top_k)
    compared = statistic(
        rule, known.scores, origin, known.weight, known.radius, visible, view.workspace.statistic
    )
    gone = (compared < theta[:, None, None]) & visible.mask(compared.shape[-1])
    count = np.maximum(visible.cold, 1)
    eliminated = gone.sum(axis=-1)
    mass = np.einsum("gqk,gqk->gq", view.exact.mass, gone, dtype=np.float64)
    lost = (gone & ((view.exact.needed & TOP_K) != 0)).sum(axis=-1) / np.maximum(view.relevant["top_k"], 1)
    union = union_survivors(compared, theta, visible.start, visible.stop)
    survivors = visible.cold - eliminated

    def ratio(kept: np.ndarray) -> np.ndarray:
        width = view.capture.keys.shape[2]
        return bytes_ratio(visible, kept[..., None], design.record_bytes, width, width)[..., 0]

    row, key = np.arange(len(asked)), np.maximum(asked, 0)
    found = np.where(asked >= 0, ~gone[:, row, key], np.nan)
    return {
        "cold": visible.cold,
        "elimination": (eliminated / count).mean(axis=0),
        "elimination_worst": (eliminated / count).min(axis=0),
        "survivors": survivors.mean(axis=0),
        "survivors_union": union,
        "bytes_ratio": ratio(survivors).mean(axis=0),
        "bytes_ratio_gqa": ratio(union),
        "fer": lost.mean(axis=0),
        "fer_worst": lost.max(axis=0),
        "dropped_mass": mass.mean(axis=0),
        "dropped_mass_worst": mass.max(axis=0),
        "needle_mass": np.where(asked >= 0, view.exact.mass[:, row, key].mean(axis=0), np.nan),
        "needle_found": found.mean(axis=0),
        "needle_found_group": np.where(asked >= 0, found.max(axis=0), np.nan),
    }
