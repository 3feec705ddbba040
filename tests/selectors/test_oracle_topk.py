"""Oracle top-k reads exactly the best cold keys."""

import numpy as np

from tests.selectors.conftest import make_bench


def test_it_reads_the_keys_of_largest_mass_over_the_heads(bench, selector):
    selection, merit = bench.select(selector("oracle_topk")), bench.merit(bench.truth.scores)
    counts = bench.budget.counts(bench.budget.allowance())
    for r in range(4):
        read = bench.read(selection, r)
        bench.assert_best(read, merit)
        assert np.array_equal(read.sum(axis=1), counts[r])


def test_no_selector_of_fixed_counts_leaves_less_mass_over_the_heads(bench, selector):
    oracle = bench.measure(bench.select(selector("oracle_topk")))["dropped_mass"].sum(axis=1)
    for name in ("streaming_llm", "h2o", "snapkv"):
        peer = bench.measure(bench.select(selector(name)))["dropped_mass"].sum(axis=1)
        assert (peer >= oracle - 1e-6).all()


def test_scores_that_a_model_caps_are_capped_once(selector):
    """Capped twice they would lie closer together, and the heads' masses would add up to another order."""
    bench = make_bench(softcap=1.5)
    assert np.abs(bench.truth.scores[np.isfinite(bench.truth.scores)]).max() <= 1.5
    selection, merit = bench.select(selector("oracle_topk")), bench.merit(bench.truth.scores)
    for r in range(4):
        bench.assert_best(bench.read(selection, r), merit)
