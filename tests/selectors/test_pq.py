"""Product quantisation: nearest centroids, and scores as sums over pieces."""

import numpy as np
import pytest

from ghostkv.files.errors import ConfigError
from ghostkv.selectors.pq import _kmeans, _nearest


def test_the_nearest_centroid_is_nearest():
    rng = np.random.default_rng(0)
    points, centroids = rng.normal(size=(50, 3)), rng.normal(size=(7, 3))
    distances = ((points[:, None] - centroids[None]) ** 2).sum(axis=-1)
    assert np.array_equal(_nearest(points, centroids), distances.argmin(axis=1))


def test_k_means_finds_separate_clusters():
    rng = np.random.default_rng(0)
    centres = np.array([[0, 0], [10, 0], [0, 10], [10, 10]])
    points = (centres[np.arange(400) % 4] + rng.normal(size=(400, 2)) * 0.1).astype(np.float32)
    found = _kmeans(points, 16, rng)
    assert ((points - found[_nearest(points, found)]) ** 2).sum(axis=1).mean() < 0.02


def test_scores_are_sums_of_table_look_ups(bench, selector):
    pq = selector("pq", parts=4, bits=4)
    books, selection = pq.fit(bench.calibration), bench.select(pq)
    read = bench.read(selection, 2)
    scene = bench.scene
    scores = np.zeros(scene.shape)
    for part, book in enumerate(books):
        columns = slice(4 * part, 4 * part + 4)
        table = scene.queries[..., columns] @ book.T.astype(float) * scene.scale
        scores += table[..., _nearest(scene.keys[:, columns], book)]
    bench.assert_best(read, bench.merit(scores))
    assert np.allclose(selection.index_bytes[2], 2 * scene.visible.cold)


def test_parts_that_do_not_divide_a_key_are_refused_with_the_fix(bench, selector):
    with pytest.raises(ConfigError, match="parts 5.*write parts: 4"):
        bench.select(selector("pq", parts=5))
