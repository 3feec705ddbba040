"""Oracle top-p: one p for all queries of a head, and the fewest keys that reach it."""

import numpy as np


def test_no_key_is_read_that_the_mass_did_not_need(bench, selector):
    selection = bench.select(selector("oracle_topp"))
    mass = np.where(bench.cold(), bench.truth.mass.mean(axis=0), 0)
    for r in (1, 2):
        read = bench.read(selection, r)
        missing_before_last, missing_after = [], []
        for q in range(len(read)):
            kept, dropped = mass[q][read[q]], mass[q][~read[q]]
            assert kept.min(initial=np.inf) >= dropped.max() - 1e-9  # a prefix of the order by mass
            missing_after.append(dropped.sum())
            if len(kept):
                missing_before_last.append(dropped.sum() + kept.min())
        # One p for the KV head: what any query still lacked before its last key exceeds what every one lacks.
        assert min(missing_before_last) >= max(missing_after) * (1 - 1e-3) - 1e-6


def test_it_spends_the_whole_budget(bench, selector):
    spent = bench.measure(bench.select(selector("oracle_topp")))["bytes_ratio_gqa"].mean(axis=-1)
    assert (spent > np.array(bench.budget.ratios)[:, None] * 0.97).all()
