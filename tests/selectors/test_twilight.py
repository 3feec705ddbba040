"""Twilight: 4-bit scores of the best pages' keys, and the fewest of them that hold a share of the mass."""

import numpy as np
import pytest

from ghostkv.selectors.base import ALONE, ONE_BUDGET
from ghostkv.selectors.quest import Quest, bounds
from ghostkv.selectors.twilight import _LOW, four_bits


def turns(bench, twilight, q):
    """Mass that is missing when each candidate's turn comes, by the paper's rule, and what it looks like to each head."""
    scene, cold = bench.scene, np.flatnonzero(bench.cold()[q])
    best = bounds(scene, *Quest(twilight.page).boxes(scene.keys))[:, q]
    # The heads of the group decide on pages by the sum of the shares that the bounds would have.
    page = np.exp(best[:, cold // twilight.page])
    shares = page / (page.sum(axis=1) + np.exp(scene.known[:, q]).sum(axis=1))[:, None]
    order = np.argsort(-shares.sum(axis=0), kind="stable")
    chosen = cold[order[: int(np.ceil(twilight.candidates * len(cold)))]]
    keys = four_bits(scene.keys).astype(float)
    missing = {}
    for g in range(2):
        estimate = {j: scene.scale * keys[j] @ scene.queries[g, q].astype(float) for j in chosen}
        total = sum(np.exp(s) for s in estimate.values()) + np.exp(scene.known[g, q].astype(float)).sum()
        left = sum(np.exp(s) for s in estimate.values()) / total
        for j in sorted(estimate, key=estimate.get, reverse=True):
            missing[j] = max(missing.get(j, -np.inf), np.log(max(left, np.exp(_LOW))))
            left -= np.exp(estimate[j]) / total
    return missing


def test_a_key_is_read_when_some_head_still_misses_more_than_one_less_p(bench, selector):
    twilight = selector("twilight", page=8, candidates=0.5)
    found = twilight._look(bench.scene).missing(bench.scene)
    for q in (2, 11):
        missing = turns(bench, twilight, q)
        assert len(missing) == int(np.ceil(0.5 * bench.scene.visible.cold[q]))
        for j, expected in missing.items():
            assert found[q, j] == pytest.approx(max(expected, _LOW), abs=0.02) or found[q, j] < -15
        others = bench.cold()[q].copy()
        others[list(missing)] = False
        assert found[q, others].max() < -1e3


def test_sharp_queries_read_fewer_keys_under_one_p(bench, selector):
    twilight = selector("twilight", page=8, candidates=0.5)
    spread = [bench.read(bench.select(twilight, column=c), 2).sum(axis=1).std() for c in (ALONE, ONE_BUDGET)]
    assert spread[1] > 1.5 * spread[0]


def test_four_bits_are_sixteen_levels_a_key(bench):
    keys = bench.scene.keys
    stood = four_bits(keys)
    assert max(len(np.unique(row)) for row in stood) <= 16
    step = (keys.max(axis=1) - keys.min(axis=1)) / 15
    assert (np.abs(stood - keys).max(axis=1) <= 0.52 * step + 5e-3).all()


def test_pages_and_candidates_are_paid(bench, selector):
    selection = bench.select(selector("twilight", page=8, candidates=0.5))
    pages = np.array([len(set(np.flatnonzero(row) // 8)) for row in bench.cold()])
    candidates = np.ceil(bench.scene.visible.cold / 2)
    assert np.allclose(selection.index_bytes[2], pages * 2 * 2 * 16 + candidates * (16 / 2 + 4))
