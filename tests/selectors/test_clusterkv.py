"""ClusterKV clusters keys by direction alone and reads the clusters of best mean key."""

import numpy as np
import pytest

from ghostkv.selectors.retroinfer import cluster

SIZE, ROUNDS = 10, 4


def literal(keys, seed):
    """K-means under cosine similarity of whole keys, key by key: cluster of each, and mean keys."""
    keys = keys.astype(float)
    units = [key / np.linalg.norm(key) for key in keys]
    count = len(keys) // SIZE
    centres = [units[i] for i in np.random.default_rng(seed).choice(len(keys), count, replace=False)]
    for step in range(ROUNDS + 1):
        mine = np.array([int(np.argmax([u @ c / np.linalg.norm(c) for c in centres])) for u in units])
        if step < ROUNDS:
            sums = [sum((units[i] for i in np.flatnonzero(mine == c)), np.zeros(16)) for c in range(count)]
            centres = [s if s.any() else c for s, c in zip(sums, centres, strict=True)]
    return mine, {c: keys[mine == c].mean(axis=0) for c in set(mine)}


def test_clusters_are_read_by_the_score_of_their_mean_key(bench, selector):
    chosen, scene = selector("clusterkv", size=SIZE), bench.scene
    owner, means = literal(scene.keys, bench.calibration.seed)
    selection = bench.select(chosen)
    read = bench.read(selection, 2)
    for q, cold in enumerate(bench.cold()):
        keys = np.flatnonzero(cold)
        scores = np.array([scene.queries[:, q] @ means[owner[j]] * scene.scale for j in keys])
        weights = np.exp(scores)
        known = np.exp(scene.known_lse[:, q].astype(float))
        mass = (weights / (weights.sum(axis=0) + known)).sum(axis=1)
        kept, left = mass[read[q, keys]], mass[~read[q, keys]]
        # fp16 centroids move a score by less than a hundredth.
        assert kept.min() >= left.max() * 0.98
        clusters = len(set(owner[keys]))
        assert selection.index_bytes[2, q] == clusters * (2 * 16 + 4) + 2 * read[q].sum()


def test_direction_alone_decides(bench, selector):
    chosen, rng = selector("clusterkv", size=SIZE), np.random.default_rng(1)

    longer = bench.scene.keys * rng.uniform(0.5, 2.0, (300, 1)).astype(np.float32)
    seed = chosen.fit(bench.calibration)
    owners = [cluster(keys, SIZE, 300, seed, centred=False)[0] for keys in (bench.scene.keys, longer)]
    assert np.mean(owners[0] == owners[1]) == pytest.approx(1, abs=0.02)
