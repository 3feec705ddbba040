"""Residual codebooks against brute force."""

import numpy as np
import pytest

from ghostkv.codecs import codebooks
from ghostkv.codecs.codebooks import BEAM, CENTROIDS, Codebooks

RNG = np.random.default_rng(3)
POINTS = RNG.normal(size=(1500, 6)) * np.linspace(2, 0.5, 6)


def fitted(stages):
    return Codebooks.fit(POINTS, stages, np.random.default_rng(0))


def literal(point, centroids, beam):
    """Beam search written out in float64: the codes and squared distances of the sums that are carried to the end."""
    sums = [((), 0.0)]
    for book in centroids.astype(float):
        longer = []
        for codes, _ in sums:
            left = point - sum(centroids[m, c].astype(float) for m, c in enumerate(codes))
            longer += [((*codes, c), ((left - book[c]) ** 2).sum()) for c in range(CENTROIDS)]
        sums = sorted(longer, key=lambda one: one[1])[:beam]
    return sums[0]


def squared(points, books, codes):
    return ((points - books.rebuild(codes)) ** 2).sum(axis=1)


def test_one_stage_takes_the_nearest_centroid():
    books = fitted(1)
    codes = books.encode(POINTS)
    distances = ((POINTS[:, None] - books.centroids[0]) ** 2).sum(axis=2)
    chosen = distances[np.arange(len(POINTS)), codes[:, 0]]
    np.testing.assert_allclose(chosen, distances.min(axis=1), atol=1e-5)
    assert (codes[:, 0] == distances.argmin(axis=1)).mean() > 0.999


@pytest.mark.parametrize("stages", [2, 3])
def test_more_stages_are_the_literal_beam_search(stages):
    books, points = fitted(stages), POINTS[:60]
    codes = books.encode(points)
    expected = [literal(point, books.centroids, BEAM) for point in points]
    np.testing.assert_allclose(squared(points, books, codes), [error for _, error in expected], atol=1e-4)
    assert np.mean([tuple(code) == path for code, (path, _) in zip(codes, expected, strict=True)]) > 0.95


def test_each_stage_lowers_the_error_and_a_beam_lowers_it_further(monkeypatch):
    errors = [squared(POINTS, fitted(stages), fitted(stages).encode(POINTS)).mean() for stages in (1, 2, 3)]
    assert all(later < 0.5 * earlier for earlier, later in zip(errors, errors[1:], strict=False))
    books = fitted(3)
    wide = squared(POINTS, books, books.encode(POINTS)).mean()
    monkeypatch.setattr(codebooks, "BEAM", 1)
    assert wide < squared(POINTS, books, books.encode(POINTS)).mean()


def test_fewer_points_than_centroids_are_told_apart():
    points = RNG.normal(size=(20, 4))
    books = Codebooks.fit(points, 2, np.random.default_rng(0))
    assert np.isfinite(books.centroids).all()
    assert squared(points, books, books.encode(points)).max() < 1e-9


def test_the_same_points_and_seed_give_the_same_codebooks_and_codes():
    one, other = fitted(2), fitted(2)
    assert np.array_equal(one.centroids, other.centroids)
    assert np.array_equal(one.encode(POINTS), other.encode(POINTS))
