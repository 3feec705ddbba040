"""Loki scores in the leading principal components of calibration keys."""

import numpy as np


def test_components_span_what_varies_most(bench, selector):
    basis, _ = selector("loki", dims=3).fit(bench.calibration)
    keys = bench.calibration.keys.astype(float)
    centred = keys - keys.mean(axis=0)
    _, _, right = np.linalg.svd(centred, full_matrices=False)
    assert np.allclose(basis @ basis.T, right[:3].T @ right[:3], atol=1e-4)


def test_components_may_be_of_the_second_moment(bench, selector):
    basis, _ = selector("loki", dims=3, centred=False).fit(bench.calibration)
    keys = bench.calibration.keys.astype(float)
    _, _, right = np.linalg.svd(keys, full_matrices=False)
    assert np.allclose(basis @ basis.T, right[:3].T @ right[:3], atol=1e-4)


def test_it_reads_the_best_approximate_scores(bench, selector):
    loki = selector("loki", dims=3)
    (basis, rest), selection = loki.fit(bench.calibration), bench.select(loki)
    stored = (bench.scene.keys @ basis).astype(np.float16).astype(float)
    scores = (
        bench.scene.queries @ basis @ stored.T + (bench.scene.queries @ rest)[..., None]
    ) * bench.scene.scale
    bench.assert_best(bench.read(selection, 2), bench.merit(scores))
    assert np.allclose(selection.index_bytes[2], bench.scene.visible.cold * 6)


def test_the_rest_of_the_mean_lies_outside_the_components(bench, selector):
    basis, rest = selector("loki", dims=3).fit(bench.calibration)
    assert np.allclose(rest @ basis, 0, atol=1e-5)
    inside = basis @ (basis.T @ bench.calibration.keys.mean(axis=0))
    assert np.allclose(rest + inside, bench.calibration.keys.mean(axis=0), atol=1e-5)


def test_all_components_are_the_oracle(bench, selector):
    full = bench.select(selector("loki", dims=16)).reads.copy()
    assert full.any()
    best = bench.select(selector("oracle_topk")).reads
    # Same order of keys, fewer of them, as the index costs bytes.
    assert ((full & best) == full).mean() > 0.999
