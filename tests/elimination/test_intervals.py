"""Intervals against published values, coverage and limits."""

import numpy as np
import pytest
from scipy.stats import binom, binomtest

from ghostkv.elimination.intervals import clopper_pearson, mcnemar, relative_interval, wilson


def test_known_values():
    # Newcombe 1998, table I: 81 of 263.
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert clopper_pearson(81, 263) == pytest.approx((0.2527, 0.3676), abs=1e-4)
    assert clopper_pearson(55, 55)[0] == pytest.approx(0.025 ** (1 / 55))
    assert mcnemar(6, 0) == pytest.approx(2 / 2**6)
    assert mcnemar(0, 0) == 1.0


@pytest.mark.parametrize("of", [1, 5, 55])
def test_agreement_with_scipy_and_ends(of):
    for right in range(of + 1):
        test = binomtest(right, of)
        for own, method in ((wilson, "wilson"), (clopper_pearson, "exact")):
            theirs = test.proportion_ci(method=method)
            assert own(right, of) == pytest.approx((theirs.low, theirs.high), abs=1e-9)
    assert wilson(0, of)[0] == 0.0
    assert wilson(of, of)[1] == 1.0
    assert wilson(0, 0) == clopper_pearson(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize("share", [0.02, 0.3, 0.5, 0.9])
def test_the_exact_interval_covers_as_often_as_it_says(share):
    rights = np.arange(31)
    covered = [
        clopper_pearson(int(right), 30)[0] <= share <= clopper_pearson(int(right), 30)[1] for right in rights
    ]
    assert binom.pmf(rights, 30, share) @ covered >= 0.95


def test_relative_accuracy_lies_in_its_interval():
    for both, lost, won, neither in ((50, 0, 0, 5), (40, 5, 2, 8), (0, 9, 0, 1), (55, 0, 0, 0)):
        low, high = relative_interval(both, lost, won, neither)
        assert low <= (both + won) / (both + lost) <= high
    assert relative_interval(55, 0, 0, 0) == (pytest.approx(0.025 ** (1 / 55)), 1.0)
    with pytest.raises(ValueError, match="never right"):
        relative_interval(0, 0, 1, 1)
