"""The turning of keys with position is found in keys alone."""

import numpy as np
import pytest

from ghostkv.codecs.rotation import Rotation

WIDTH, TOKENS = 16, 1024


def rotary(keys, positions, base=1e3, interleaved=False):
    """Rotary embedding written out, pair by pair."""
    out, half = np.array(keys, float), keys.shape[1] // 2
    for pair in range(half):
        a, b = (2 * pair, 2 * pair + 1) if interleaved else (pair, pair + half)
        angle = positions * base ** (-pair / half)
        out[:, a] = keys[:, a] * np.cos(angle) - keys[:, b] * np.sin(angle)
        out[:, b] = keys[:, a] * np.sin(angle) + keys[:, b] * np.cos(angle)
    return out


def turning(interleaved=False, seed=0):
    """Keys of two texts with a mean before their turn, and where they stand."""
    rng = np.random.default_rng(seed)
    keys = rng.normal(size=(2 * TOKENS, WIDTH)) + 1.5 * rng.choice([-1, 1], WIDTH)
    positions = np.tile(np.arange(TOKENS), 2)
    return keys, rotary(keys, positions, interleaved=interleaved), positions


@pytest.mark.parametrize("interleaved", [False, True])
def test_frequencies_and_pairing_are_those_that_turned_the_keys(interleaved):
    _, keys, positions = turning(interleaved)
    found = Rotation.fit(keys, positions)
    assert found.interleaved is interleaved
    # Over the whole text no pair is off by more than a few degrees.
    assert np.abs(found.frequency - 1e3 ** (-np.arange(WIDTH // 2) / (WIDTH // 2))).max() * TOKENS < 0.2


@pytest.mark.parametrize("interleaved", [False, True])
def test_turning_is_rotary_embedding_and_turning_back_undoes_it(interleaved):
    before, keys, positions = turning(interleaved)
    rotation = Rotation(1e3 ** (-np.arange(WIDTH // 2) / (WIDTH // 2)), interleaved)
    np.testing.assert_allclose(rotation.turn(before, positions), keys, atol=1e-12)
    np.testing.assert_allclose(rotation.turn(keys, positions, back=True), before, atol=1e-12)


@pytest.mark.parametrize("seed", range(20))
def test_keys_that_do_not_turn_are_left_as_they_are(seed):
    rng = np.random.default_rng(seed)
    keys = rng.normal(size=(TOKENS, WIDTH)) + rng.choice([0.0, 2.0], WIDTH)
    found = Rotation.fit(keys, np.arange(TOKENS))
    assert (found.frequency == 0).all()
    assert np.array_equal(found.turn(keys, np.arange(TOKENS)), keys)


def test_an_odd_coordinate_has_no_pair_and_stays():
    _, keys, positions = turning()
    odd = np.concatenate([keys, np.ones((len(keys), 1))], axis=1)
    rotation = Rotation(np.ones(WIDTH // 2), interleaved=False)
    turned = rotation.turn(odd, positions)
    assert np.array_equal(turned[:, -1], odd[:, -1])
    assert not np.array_equal(turned[1:, :-1], odd[1:, :-1])
