"""Intervals, corrections for many comparisons and power, against published values, SciPy, coverage and limits."""

import numpy as np
import pytest
from scipy.stats import binom, binomtest, ttest_1samp

from ghostkv.elimination.intervals import (
    clopper_pearson,
    clustered,
    holm,
    least_seen,
    mcnemar,
    over_documents,
    paired_p,
    relative_interval,
    wilson,
)


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
        kept, gained = ([both, 0], [both + lost - 1, 1]), ([won, 0], [won + neither, 0])
        low, high = relative_interval(kept, gained)
        assert low <= (both + won) / (both + lost) <= high
    assert relative_interval(([1] * 55, [1] * 55), ([0], [0])) == (pytest.approx(0.025 ** (1 / 55)), 1.0)
    with pytest.raises(ValueError, match="never right"):
        relative_interval(([0], [0]), ([1], [2]))


def test_questions_on_one_haystack_count_as_far_as_they_tell_more_than_one():
    # Five questions on each of eleven haystacks, all right: eleven haystacks, not 55 questions.
    assert clustered([5] * 11, [5] * 11) == pytest.approx(clopper_pearson(11, 11))
    # One question a haystack is the interval of independent questions.
    assert clustered([1, 0, 1, 1], [1] * 4) == pytest.approx(clopper_pearson(3, 4))
    # Haystacks that are all right or all wrong hold one answer each, and few of them know their spread poorly.
    whole = clustered([5] * 6 + [0] * 5, [5] * 11)
    eleven, all_of_them = clopper_pearson(6, 11), clopper_pearson(30, 55)
    assert whole[0] <= eleven[0] < all_of_them[0]
    assert all_of_them[1] < eleven[1] <= whole[1]
    assert clustered([], []) == clustered([0], [0]) == (0.0, 1.0)


@pytest.mark.parametrize("alike", [0.0, 0.5, 1.0])
def test_a_clustered_interval_covers_where_answers_of_a_haystack_agree(alike):
    rng, share = np.random.default_rng(8), 0.8
    own = rng.random((2000, 11, 5)) < share
    common = np.repeat(rng.random((2000, 11, 1)) < share, 5, axis=2)
    right = np.where(rng.random((2000, 11, 5)) < alike, common, own).sum(axis=2)
    covered = [low <= share <= high for low, high in (clustered(one, [5] * 11) for one in right)]
    assert np.mean(covered) >= 0.93


@pytest.mark.parametrize("documents", [2, 3, 12])
def test_an_interval_over_documents_is_student_s(documents):
    values = np.random.default_rng(documents).normal(3, 2, documents)
    test = ttest_1samp(values, 0)
    theirs = test.confidence_interval(0.95)
    assert over_documents(values) == pytest.approx((values.mean(), theirs.low, theirs.high))
    assert paired_p(values) == pytest.approx(test.pvalue)


def test_one_document_has_no_interval_and_equal_differences_no_doubt():
    assert over_documents([0.4]) == (0.4, None, None)
    assert paired_p([0.4]) is None
    assert least_seen(1.0, 1) is None
    assert over_documents([0.5, 0.5, 0.5]) == (0.5, 0.5, 0.5)
    assert paired_p([0.5, 0.5, 0.5]) == 0.0
    assert paired_p([0.0, 0.0, 0.0]) == 1.0


def test_holm_s_correction_by_hand():
    # Times 4, 3, 2 and 1 in ascending order, none below the one before it, none above 1.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == pytest.approx([1.0, 1.0])
    assert holm([0.02]) == pytest.approx([0.02])
    assert len(holm([])) == 0


def test_holm_claims_falsely_no_more_often_than_it_says():
    drawn = np.random.default_rng(3).normal(size=(4000, 10, 12))
    worst = [holm(p).min() <= 0.05 for p in ttest_1samp(drawn, 0, axis=2).pvalue]
    uncorrected = (ttest_1samp(drawn, 0, axis=2).pvalue.min(axis=1) <= 0.05).mean()
    assert uncorrected > 0.3
    assert np.mean(worst) <= 0.06


@pytest.mark.parametrize(("documents", "comparisons"), [(3, 1), (12, 1), (12, 10)])
def test_the_least_difference_that_is_seen_is_seen_four_times_in_five(documents, comparisons):
    least = least_seen(2.0, documents, comparisons)
    drawn = np.random.default_rng(5).normal(least, 2.0, (20_000, documents))
    found = (ttest_1samp(drawn, 0, axis=1).pvalue < 0.05 / comparisons).mean()
    assert found == pytest.approx(0.8, abs=0.01)
