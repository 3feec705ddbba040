"""Louver: balls that miss nothing, K of every candidate paid, and a threshold that is known before keys are read."""

import numpy as np
import pytest

from ghostkv.selectors.base import ALONE

SIZE = 8


def test_no_key_lies_outside_its_ball_or_above_its_bound(bench, selector):
    louver, scene = selector("louver", keys_per_cluster=SIZE), bench.scene
    clusters = louver._clusters(scene)
    assert len(clusters.centroids) == 300 // SIZE
    for j, key in enumerate(scene.keys.astype(float)):
        c = clusters.of_key[j]
        assert np.linalg.norm(key - clusters.centroids[c]) <= clusters.radius[c]
    bound, exact = louver._reaches(scene, clusters)
    assert (bound >= exact).all()
    for q in (0, 13):
        for j in range(0, 300, 17):
            heads, c = [], clusters.of_key[j]
            for g in range(2):
                query, known = scene.queries[g, q].astype(float), scene.known[g, q].astype(float)
                lse = np.log(np.exp(known).sum())
                ball = query @ clusters.centroids[c] + np.linalg.norm(query) * float(clusters.radius[c])
                heads.append((scene.scale * ball - lse, scene.scale * query @ scene.keys[j] - lse))
            assert bound[q, j] == pytest.approx(max(b for b, _ in heads), abs=1e-3)
            assert exact[q, j] == pytest.approx(max(s for _, s in heads), abs=1e-3)


def test_what_is_read_is_all_above_a_threshold_and_candidates_are_paid(bench, selector):
    louver, scene = selector("louver", keys_per_cluster=SIZE), bench.scene
    clusters = louver._clusters(scene)
    bound, exact = louver._reaches(scene, clusters)
    selection = bench.select(louver)
    r, met = 2, 0
    for q, cold in enumerate(bench.cold()):
        read = bench.read(selection, r)[q]
        if not read.any():
            continue
        threshold = exact[q, read].min()
        assert exact[q, cold & ~read].max(initial=-np.inf) < threshold
        # The threshold lies between the worst key that is read and the best that is left.
        lowest = exact[q, cold & ~read].max(initial=-np.inf)
        paid = selection.index_bytes[r, q] - len(set(clusters.of_key[cold])) * 2 * (16 + 2)
        candidates = paid / 32 + read.sum()
        assert (
            (bound[q, cold] >= threshold).sum() - 1e-6 <= candidates <= (bound[q, cold] > lowest).sum() + 1e-6
        )
        met += 1
    assert met > 10


def test_alone_no_query_spends_what_another_left(bench, selector):
    louver = selector("louver", keys_per_cluster=SIZE)
    selection = bench.select(louver, column=ALONE)
    spent = bench.measure(selection)["bytes_ratio_gqa"]
    own = bench.budget.allowance(louver._index(bench.scene, louver._clusters(bench.scene)))
    for r in np.flatnonzero(selection.feasible):
        fixed = bench.scene.visible.visible - bench.scene.visible.cold
        read = selection.index_bytes[r] + bench.read(selection, r).sum(axis=1) * bench.budget.pair_bytes
        clusters = louver._index(bench.scene, louver._clusters(bench.scene))
        assert (read - clusters <= own[r] + 1e-6).all()
        assert (fixed >= 0).all()
    assert np.nanmax(spent) > 0
