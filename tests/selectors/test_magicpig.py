"""MagicPIG: two collisions, bucket bytes, and weights that make the estimate unbiased."""

import numpy as np
import pytest

from ghostkv.files.errors import ConfigError


def hashes(pig, vectors, planes):
    return (vectors @ planes > 0).reshape(len(vectors), pig.tables, pig.bits)


def test_a_key_is_sampled_at_its_second_collision(bench, selector):
    pig = selector("magicpig", bits=3, tables=12)
    mean, planes, _ = pig.fit(bench.calibration)
    second, hits = pig._collide(bench.scene, mean, planes)
    keys = hashes(pig, bench.scene.keys - mean, planes)
    for g, q in ((0, 0), (1, 5)):
        query = hashes(pig, bench.scene.queries[g, q][None], planes)
        same = (keys == query).all(axis=2)  # [keys, tables]
        for j in np.flatnonzero(bench.cold()[q]):
            tables = np.flatnonzero(same[j])
            assert second[g, q, j] == (tables[1] if len(tables) > 1 else 255)
        assert np.array_equal(hits[g, q], np.cumsum(same[bench.cold()[q]].sum(axis=0)))


def test_bucket_ends_and_identities_are_paid(bench, selector):
    pig = selector("magicpig", bits=3, tables=12)
    mean, planes, limits = pig.fit(bench.calibration)
    selection = bench.select(pig)
    _, hits = pig._collide(bench.scene, mean, planes)
    r = int(np.flatnonzero(selection.feasible)[-1])
    for g in range(2):
        tables = limits[r, g]
        assert np.allclose(selection.index_bytes[r, g], 8 * tables + 2 * hits[g, :, tables - 1])
    assert np.allclose(selection.index_bytes_gqa[r], selection.index_bytes[r].sum(axis=0))


def test_weights_are_the_inverse_chance_of_two_collisions():
    from ghostkv.selectors.magicpig import _weights

    cosine = np.array([[[0.3, -0.2, 0.9]]], np.float32)
    out = np.zeros((1, 1, 3), np.float32)
    _weights(cosine, np.array([20]), 4, np.ones((1, 1, 3), bool), out)
    rng = np.random.default_rng(0)
    for j, value in enumerate(cosine[0, 0]):
        p = 1 - np.arccos(value) / np.pi
        collisions = rng.binomial(20, p**4, 200_000)
        assert np.exp(-out[0, 0, j]) == pytest.approx((collisions >= 2).mean(), abs=5e-3)


def test_a_hash_of_more_than_eight_bits_keeps_them_all(bench, selector):
    pig = selector("magicpig", bits=10, tables=4)
    mean, planes, _ = pig.fit(bench.calibration)
    codes, signs = (
        pig._codes(bench.scene.keys - mean, planes),
        hashes(pig, bench.scene.keys - mean, planes),
    )
    for t in range(4):
        assert np.array_equal(
            codes[t][:, None] == codes[t], (signs[:, None, t] == signs[None, :, t]).all(axis=2)
        )
        assert len(set(codes[t])) > 20


def test_too_many_bits_are_refused(selector):
    with pytest.raises(
        ConfigError, match=r"bits is 20\. Accepted: less than or equal to 16\.\n  Write: bits: 8"
    ):
        selector("magicpig", bits=20)
