"""RetroInfer scores a key by the mean of its cluster, which never claims more mass than the cluster holds."""

import numpy as np
import pytest

from ghostkv.selectors.retroinfer import cluster, with_cold_keys

OPTIONS = {"size": 8, "segment": 100}


def literal_clusters(keys, size, segment, seed, rounds=4):
    """The paper's segmented, centred, spherical k-means, key by key."""
    rng, owner, means, before = np.random.default_rng(seed), [], [], 0
    for start in range(0, len(keys), segment):
        part = keys[start : start + segment].astype(float)
        centred = part - part.mean(axis=0)
        count = max(1, len(part) // size)
        centres = [centred[i] for i in rng.choice(len(part), count, replace=False)]
        for step in range(rounds + 1):
            mine = []
            for key in centred:
                cosines = [key @ c / np.linalg.norm(key) / np.linalg.norm(c) for c in centres]
                mine.append(int(np.argmax(cosines)))
            if step == rounds:
                break
            for c in range(count):
                group = [centred[i] / np.linalg.norm(centred[i]) for i in range(len(part)) if mine[i] == c]
                if group:
                    centres[c] = np.sum(group, axis=0)
        for c in range(count):
            group = [part[i] for i in range(len(part)) if mine[i] == c]
            means.append(np.mean(group, axis=0) if group else np.zeros(keys.shape[1]))
        owner += [before + c for c in mine]
        before += count
    return np.array(owner), np.array(means)


def test_clusters_are_those_of_the_literal_algorithm(bench):
    owner, centroids = cluster(bench.scene.keys, 8, 100, 5)
    want, means = literal_clusters(bench.scene.keys, 8, 100, 5)
    assert np.array_equal(owner, want)
    assert centroids == pytest.approx(means, abs=2e-2)


def test_a_key_has_the_score_of_its_centroid_and_every_cluster_with_a_cold_key_is_paid(bench, selector):
    retro, scene = selector("retroinfer", **OPTIONS), bench.scene
    seed = retro.fit(bench.calibration)
    found = retro.estimate(seed, scene)
    owner, centroids = cluster(scene.keys, **OPTIONS, seed=seed)
    for q, cold in enumerate(bench.cold()):
        for j in np.flatnonzero(cold):
            want = scene.queries[:, q] @ centroids[owner[j]] * scene.scale
            assert found.scores[:, q, j] == pytest.approx(want, abs=1e-4)
        assert found.index_bytes[q] == len(set(owner[cold])) * (2 * 16 + 4)


def test_the_estimation_zone_never_claims_more_than_whole_clusters_hold(bench):
    scene = bench.scene
    owner, _ = cluster(scene.keys, 8, 100, 5)
    keys, queries = scene.keys.astype(float), scene.queries.astype(float) * scene.scale
    for c in set(owner):
        members = keys[owner == c]
        claim = len(members) * np.exp(queries @ members.mean(axis=0))
        assert (claim <= np.exp(queries @ members.T).sum(axis=-1) * (1 + 1e-9)).all()


def test_a_window_leaves_clusters_behind(windowed_bench):
    owner, _ = cluster(windowed_bench.scene.keys, 8, 100, 5)
    counts = with_cold_keys(owner, windowed_bench.scene.visible)
    assert list(counts) == [len(set(owner[cold])) for cold in windowed_bench.cold()]


def test_clusters_are_read_whole(bench, selector):
    retro = selector("retroinfer", **OPTIONS)
    read = bench.read(bench.select(retro), 2)
    owner, _ = cluster(bench.scene.keys, **OPTIONS, seed=bench.calibration.seed)
    for q, cold in enumerate(bench.cold()):
        parts = [read[q, cold & (owner == c)] for c in set(owner[cold])]
        assert sum(part.any() and not part.all() for part in parts) <= 1
