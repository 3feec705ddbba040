"""Oracle top-k reads exactly the best cold keys."""

import numpy as np


def test_it_reads_the_keys_of_largest_exact_score(bench, selector):
    selection = bench.select(selector("oracle_topk"))
    counts = bench.budget.counts(bench.budget.allowance(), 2)
    for r in range(4):
        read = bench.read(selection, r)
        for g, q in np.ndindex(read.shape[:2]):
            scores = np.where(bench.cold()[q], bench.truth.scores[g, q], -np.inf)
            best = set(np.argsort(-scores, kind="stable")[: counts[r, g, q]])
            assert set(np.flatnonzero(read[g, q])) == best


def test_no_selector_of_fixed_counts_loses_fewer_of_the_best_keys(bench, selector):
    oracle = bench.measure(bench.select(selector("oracle_topk")))
    for name in ("streaming_llm", "h2o", "snapkv"):
        peer = bench.measure(bench.select(selector(name)))
        assert (peer["fer"] >= oracle["fer"] - 1e-12).all()
        assert (peer["dropped_mass"] >= oracle["dropped_mass"] - 1e-6).all()
