"""vAttention: heavy hitters, sample sizes by the central limit theorem, and an estimator without bias."""

from statistics import NormalDist

import numpy as np
import pytest

from ghostkv.selectors.base import ALONE, COMPENSATED, ONE_BUDGET
from ghostkv.selectors.double_sparsity import DoubleSparsity

OPTIONS = {"channels": 4, "heavy": 0.5, "base": 12}


def exact(scene):
    return scene.queries.astype(float) @ scene.keys.T.astype(float) * scene.scale


def literal_size(scores, known, heavy, sample, left, eps, delta):
    """The paper's sample size of one head: base sample, then (z n sigma / (eps D))^2."""
    weights = np.exp(scores[sample])
    denominator = np.exp(known) + np.exp(scores[heavy]).sum() + left * weights.mean()
    z = NormalDist().inv_cdf(1 - delta / 2)
    return (z * left * weights.std(ddof=1) / (eps * denominator)) ** 2


def test_sizes_are_those_of_the_paper(bench, selector):
    chosen, scene = selector("vattention", **OPTIONS), bench.scene
    index, seed, _ = chosen.fit(bench.calibration)
    split, scores, cold = chosen._split(index, seed, scene, bench.budget), exact(scene), bench.cold()
    eps, delta = 0.05, 0.1
    ratio = eps / NormalDist().inv_cdf(1 - delta / 2)
    sizes = split.sizes(scene.visible.cold, 12, np.full(4, ratio))
    for r, q in ((1, 16), (2, 0), (2, 17), (3, 11)):
        heavy = np.flatnonzero(split.reads[q] >> r & 1)
        assert len(heavy) == split.heavy[r, q] > 0
        rest = [j for j in split.order[q, : cold[q].sum()] if j not in heavy]
        assert sorted([*rest, *heavy]) == list(np.flatnonzero(cold[q]))
        asked = [
            literal_size(scores[g, q], scene.known_lse[g, q], heavy, rest[:12], len(rest), eps, delta)
            for g in range(2)
        ]
        want = min(max(np.ceil(max(asked)), 12), len(rest))
        assert sizes[r, q] == pytest.approx(want, abs=1)


def test_half_of_what_is_affordable_are_the_best_keys_of_the_label_cache(bench, selector):
    scene = bench.scene
    selection = bench.select(selector("vattention", **OPTIONS))
    reads, weights = selection.reads.copy(), np.array(selection.log_weight)
    labels = DoubleSparsity(4)
    estimates = labels.estimate(labels.fit(bench.calibration), scene).scores.astype(float)
    for q, cold in enumerate(bench.cold()):
        read = np.flatnonzero(reads[q] >> 2 & 1)
        keys = np.flatnonzero(cold)
        mass = sum(
            np.exp(row[keys]) / (np.exp(row[keys]).sum() + np.exp(lse))
            for row, lse in zip(estimates[:, q], scene.known_lse[:, q].astype(float), strict=True)
        )
        heavy = read[(weights[2, :, q][:, read] == 0).all(axis=0)]
        assert len(heavy) == len(read) // 2
        rest = np.setdiff1d(keys, heavy)
        # Labels tie in float32.
        assert mass[np.isin(keys, heavy)].min() >= mass[np.isin(keys, rest)].max() * (1 - 1e-4)
        sampled = np.setdiff1d(read, heavy)
        stands = len(rest) / len(sampled)
        assert weights[2, :, q][:, sampled] == pytest.approx(np.log(stands), abs=1e-5)


def test_the_estimate_of_the_denominator_has_no_bias(bench, selector):
    chosen, scene = selector("vattention", **OPTIONS), bench.scene
    index, _, error = chosen.fit(bench.calibration)
    scores, q = exact(scene)[:, 12], 12
    want = np.exp(scores[:, bench.cold()[q]]).sum(axis=1)
    found = []
    for seed in range(400):
        selection = chosen.select((index, seed, error), scene, bench.budget, ALONE)
        read = selection.reads[q] >> 1 & 1 == 1
        found.append((np.exp(scores + selection.log_weight[1][:, q])[:, read]).sum(axis=1))
    spread = np.std(found, axis=0) / 20
    assert (np.abs(np.mean(found, axis=0) - want) < 4 * spread).all()


def test_the_size_holds_the_error_that_it_was_asked_for(bench, selector):
    """Of the heads that a size was computed for, the share of samples within eps is 1 - delta = .9."""
    chosen, scene = selector("vattention", channels=4, heavy=0.2, base=200), bench.scene
    index, _, _ = chosen.fit(bench.calibration)
    scores, cold, z = exact(scene), bench.cold(), NormalDist().inv_cdf(0.95)
    inside = []
    for seed in range(60):
        split = chosen._split(index, seed, scene, bench.budget)
        for q in range(8, 18):
            keys = split.order[q, : cold[q].sum()]
            keys = keys[(split.reads[q, keys] >> 1 & 1) == 0]
            # The eps for which this size is asked.
            size = len(keys) // 4
            eps = z * np.sqrt(split.asked[1, q] / size)
            rest = np.exp(scores[:, q, keys])
            known = np.exp(scores[:, q, scene.visible.first[q] : scene.visible.last[q]]).sum(axis=1)
            off = len(keys) * rest[:, :size].mean(axis=1) - rest.sum(axis=1)
            inside += list(np.abs(off) <= eps * known)
    # Drawn without replacement, a sample is better than the theorem asks.
    assert np.mean(inside) >= 0.9


def test_queries_whose_rest_is_spread_out_get_more_keys_under_one_budget(bench, selector):
    chosen = selector("vattention", **OPTIONS)
    fixed, own = (bench.select(chosen, column=column).reads.copy() for column in (ALONE, ONE_BUDGET))
    counts = [(reads >> 1 & 1).sum(axis=1) for reads in (fixed, own)]
    assert np.ptp(counts[1] - counts[0]) > 4
    assert counts[1].sum() == pytest.approx(counts[0].sum(), rel=0.1)


def test_the_estimator_is_its_own_compensation(bench, selector):
    chosen = selector("vattention", **OPTIONS)
    errors = [
        bench.measure(bench.select(chosen, column=column))["output_error"]
        for column in (ONE_BUDGET, COMPENSATED)
    ]
    assert np.array_equal(*errors, equal_nan=True)
