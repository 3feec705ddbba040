"""SparQ reads the components where the query is largest, and reallocates missing mass to the mean of V."""

import numpy as np
import pytest


def test_it_picks_the_largest_components(bench, selector):
    queries = bench.scene.queries
    chosen = selector("sparq", components=3).largest(queries)
    assert (chosen.sum(axis=-1) == 3).all()
    inside = np.where(chosen, np.abs(queries), np.inf).min(axis=-1)
    outside = np.where(chosen, 0, np.abs(queries)).max(axis=-1)
    assert (inside >= outside).all()


def test_approximate_scores_use_only_those_components(bench, selector):
    sparq = selector("sparq", components=3, reallocate=False)
    selection = bench.select(sparq)
    masked = np.where(sparq.largest(bench.scene.queries), bench.scene.queries, 0).astype(float)
    scores, read = masked @ bench.scene.keys.T.astype(float) * bench.scene.scale, bench.read(selection, 2)
    bench.assert_best(read, bench.merit(scores))


def test_the_share_of_the_mean_follows_the_papers_temperature(bench, selector):
    sparq = selector("sparq", components=3)
    selection, scene = bench.select(sparq), bench.scene
    g, q, r = 1, 4, 2
    query = scene.queries[g, q].astype(float)
    chosen = sparq.largest(scene.queries)[g, q]
    scores = scene.keys.astype(float) @ np.where(chosen, query, 0)
    temperature = np.sqrt(16 * np.abs(query[chosen]).sum() / np.abs(query).sum())
    known = np.isfinite(scene.known[g, q])
    logits = np.where(known, scene.known[g, q], scores / temperature)
    weights = np.where(known | bench.cold()[q], np.exp(logits - logits.max()), 0)
    dropped = bench.cold()[q] & ~bench.read(selection, r)[q]
    assert selection.tail_share[r, g, q] == pytest.approx(weights[dropped].sum() / weights.sum(), abs=1e-5)


def test_a_group_reads_the_union_of_its_heads_components(bench, selector):
    sparq = selector("sparq", components=3)
    union = sparq.largest(bench.scene.queries).any(axis=0).sum(axis=-1)
    selection = bench.select(sparq)
    assert np.allclose(selection.index_bytes[2], union * 2 * bench.scene.visible.cold)
