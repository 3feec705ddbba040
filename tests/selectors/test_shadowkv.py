"""ShadowKV ranks chunks by the score of their mean key, and knows its outliers exactly."""

import numpy as np

CHUNK, OUTLIERS = 8, 3


def literal(scene, q):
    """Scores [group, tokens] and outlier chunks of one query, chunk by chunk."""
    start, stop = scene.visible.start[q], scene.visible.stop[q]
    keys, worst = scene.keys.astype(float), {}
    scores = np.full((scene.shape[0], len(keys)), np.nan)
    for chunk in range(-(-len(keys) // CHUNK)):
        tokens = range(chunk * CHUNK, min((chunk + 1) * CHUNK, len(keys)))
        if not any(start <= j < stop for j in tokens):
            continue
        mean = np.float16(np.mean([keys[j] for j in tokens], axis=0)).astype(float)
        worst[chunk] = min(keys[j] @ mean / (np.linalg.norm(keys[j]) * np.linalg.norm(mean)) for j in tokens)
        for j in tokens:
            scores[:, j] = scene.queries[:, q] @ mean * scene.scale
    outliers = sorted(worst, key=worst.get)[:OUTLIERS]
    exact = [j for chunk in outliers for j in range(chunk * CHUNK, min((chunk + 1) * CHUNK, len(keys)))]
    for j in exact:
        scores[:, j] = scene.queries[:, q] @ keys[j] * scene.scale
    return scores, len(worst) + len(exact)


def test_estimates_and_bytes_are_those_of_the_literal_rule(bench, selector):
    shadow, scene = selector("shadowkv", chunk=CHUNK, outliers=OUTLIERS), bench.scene
    found, cold = shadow.estimate(None, scene), bench.cold()
    for q in range(scene.shape[1]):
        scores, vectors = literal(scene, q)
        assert np.allclose(found.scores[:, q, cold[q]], scores[:, cold[q]], atol=1e-2)
        assert found.index_bytes[q] == vectors * 2 * 16


def test_without_outliers_whole_chunks_are_read(bench, selector):
    shadow = selector("shadowkv", chunk=CHUNK, outliers=0)
    read = bench.read(bench.select(shadow), 2)
    chunk = np.arange(bench.capture.tokens) // CHUNK
    for q, cold in enumerate(bench.cold()):
        parts = [read[q, cold & (chunk == c)] for c in set(chunk[cold])]
        # The last chunk that is opened takes what is left of the budget.
        assert sum(part.any() and not part.all() for part in parts) <= 1


def test_an_outlier_is_a_chunk_that_its_mean_misrepresents(bench, selector):
    shadow, rng = selector("shadowkv", chunk=CHUNK), np.random.default_rng(0)
    keys = (1 + 0.1 * rng.normal(size=(80, 16))).astype(np.float32)
    keys[40:48, :8] *= np.array([3, -1] * 4)[:, None]
    marks, cosines = shadow.landmarks(keys)
    assert cosines.argmin() == 5
    assert np.delete(cosines, 5).min() > 0.9
    assert np.allclose(marks[3], keys[24:32].mean(axis=0), atol=1e-3)
