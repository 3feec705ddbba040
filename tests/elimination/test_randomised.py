"""The randomised certificate: the law of the dithered error, the bound on a sum, and what an adversary can do to it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ghostkv.codecs import by_name
from ghostkv.codecs.dithered import Dithered, dither
from ghostkv.codecs.nested import level_bytes
from ghostkv.elimination.attention import cold_range, scores
from ghostkv.elimination.bounds import CodecBounds
from ghostkv.elimination.certificates import certify_mass
from ghostkv.elimination.ledger import Costs
from ghostkv.elimination.powers import Powers
from ghostkv.elimination.randomised import certify_by_chance, far_off, read_dithers
from ghostkv.elimination.randomised_loop import GRID, TILTS
from ghostkv.elimination.truth import Truth
from tests.elimination.test_certificates import (
    GROUP,
    KINDS,
    SCALE,
    WIDTH,
    Case,
    calibration,
    make_keys,
    make_queries,
)

BITS = 4.0


def fitted(name="right", seed=0, bits=BITS):
    kind, magnitude = {"right": (1, 1.0), "shuffled": (2, 1.0), "small": (1, 0.01)}[name]
    return Dithered.of(level_bytes([bits], WIDTH), seed).fit(*calibration(kind, magnitude))


def read(codec, keys, queries, scale=SCALE):
    records = codec.encode(keys)
    return read_dithers(codec, [codec.decode(records, level) for level in (0, 1)], queries, scale)


def costs_of(codec, value_dim):
    width = codec.encoder_.shape[1]
    return Costs.of([codec.level_bytes[0]], codec.level_bytes.sum(), width, value_dim)


@settings(max_examples=200, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    calibrated=st.sampled_from(["right", "shuffled", "small"]),
    seed=st.integers(0, 2**31),
    magnitude=st.sampled_from([1e-20, 1e-3, 0.1, 1.0, 30.0]),
    delta=st.sampled_from([0.3, 0.05, 1e-3]),
)
def test_no_query_drops_more_than_is_certified(kind, calibrated, seed, magnitude, delta):
    case = Case(make_keys(kind, seed), make_queries(kind, seed, magnitude))
    codec = fitted(calibrated, seed)
    dithers = read(codec, case.keys, case.queries)
    seen = np.isfinite(case.exact)
    assert (dithers.low[seen] <= case.exact[seen]).all()
    assert (dithers.high[seen] >= case.exact[seen]).all()
    assert far_off(dithers, case.truth, 1e-12)[1] == 0
    mass = np.exp(case.exact - case.exact.max(axis=-1, keepdims=True))
    mass /= mass.sum(axis=-1, keepdims=True)
    for together in (False, True):
        outcome = certify_by_chance(dithers, case.truth, costs_of(codec, 5), delta, 1e-12, together)
        dropped = np.where(outcome.kept, 0.0, mass).sum(axis=-1)
        assert (dropped <= delta).all()
        assert (dropped <= outcome.certified * (1 + 1e-9) + 1e-12).all()
        assert outcome.violated.sum() == 0
        norms = np.linalg.norm(case.truth.outputs, axis=-1)
        assert (outcome.error <= outcome.error_bound + 1e-6 * (1 + norms)).all()
    assert (outcome.kept == outcome.kept[:1])[seen].all()


def error_of(codec, keys, queries):
    """Errors of estimates in float64, and their law; [queries, keys]."""
    decoded = codec.decode(codec.encode(keys), 0)
    exact = queries.astype(np.float64) @ keys.astype(np.float64).T
    rebuilt = codec.mean_ + decoded.coordinates.astype(np.float64) @ codec.decoder_.T
    return queries.astype(np.float64) @ rebuilt.T - exact, codec.law(codec.project(queries), 1.0)


def test_the_error_of_a_coordinate_is_uniform_whatever_the_key_and_independent_of_every_other():
    codec = fitted(seed=5)
    # One key over and over: what is random is the coins alone.
    key = make_keys("gaussian", 3)[:1]
    coordinates = codec.decode(codec.encode(np.repeat(key, 20_000, axis=0)), 0).coordinates.astype(np.float64)
    exact = (key.astype(np.float64) - codec.mean_) @ codec.encoder_.T
    inside = (exact[0] > codec.low_) & (exact[0] < codec.low_ + codec.step_ * (2.0**codec.bits_ - 1))
    assert inside.sum() > 12
    errors = ((coordinates - exact) / codec.step_)[:, inside]
    ranks = np.sort(errors, axis=0) + 0.5
    # Kolmogorov and Smirnov at 1e-6: 2.7 / sqrt(n).
    assert np.abs(ranks - (np.arange(20_000) + 0.5)[:, None] / 20_000).max() < 2.7 / np.sqrt(20_000)
    correlation = np.corrcoef(errors.T)[~np.eye(inside.sum(), dtype=bool)]
    lagged = [np.corrcoef(errors[:-1, i], errors[1:, i])[0, 1] for i in range(inside.sum())]
    assert np.abs([*correlation, *lagged]).max() < 5.0 / np.sqrt(20_000)


def test_the_law_is_that_of_the_errors():
    codec = fitted(seed=9)
    keys = np.repeat(make_keys("gaussian", 3)[:1], 60_000, axis=0)
    queries = make_queries("gaussian", 4, 0.05).reshape(-1, WIDTH)
    errors, law = error_of(codec, keys, queries)
    assert errors.std(axis=1) == pytest.approx(law.deviation, rel=0.02)
    assert np.exp(errors).mean(axis=1) == pytest.approx(np.exp(law.log_mean), rel=0.02)
    assert (np.exp(errors) / np.exp(law.log_mean)[:, None]).std(axis=1) == pytest.approx(law.spread, rel=0.04)


def test_coins_differ_between_keys_coordinates_and_seeds_and_come_again():
    coins = dither(7, 2000, 48)
    assert (coins == dither(7, 2000, 48)).all()
    assert (coins[:500] == dither(7, 500, 48)).all()
    assert len(np.unique(coins)) == coins.size
    assert 0.0 <= coins.min() < 1e-4 < 1 - 1e-4 < coins.max() < 1.0
    assert np.abs(np.corrcoef(coins.ravel(), dither(8, 2000, 48).ravel())[0, 1]) < 5 / np.sqrt(coins.size)


def literal_bound(estimates, exact, eliminated, tau, tilt, exponent, law, farthest=np.inf):
    """The bound of docs/certificates.md, term by term; scores of kept keys are known, `estimates` are of all keys.

    No estimate is further than `farthest` below its score.
    """
    log_mean, spread, deviation = law

    def moment(score):
        x, above = tilt * np.exp(score - tau), max(score - tau, 0.0) / deviation
        once = min(spread / 2, spread * np.exp(-(above**2) / 4), np.exp(-(above**2) / 2))
        return x * once + (np.expm1(min(x, 600.0)) - x) * min(once, spread**2)

    # What is eliminated is charged the worst ratio to its mass.
    worst = moment(tau) / tilt
    for score in np.arange(tau, tau + min(8.6 * deviation, farthest), deviation / 50):
        worst = max(worst, np.log1p(moment(score)) / (tilt * np.exp(score - tau)))
    if worst >= 1:
        return np.inf
    dropped = np.exp(estimates[eliminated] - log_mean).sum()
    charged = sum(np.log1p(moment(score)) / tilt for score in exact[~eliminated] if score < tau + farthest)
    return (dropped + np.exp(tau) * (charged + exponent / tilt)) / (1 - worst)


def test_the_worst_set_of_keys_breaks_the_bound_no_more_often_than_stated():
    """An adversary who sees all coins and all scores chooses what is eliminated, among keys below the threshold."""
    rng = np.random.default_rng(0)
    keys = make_keys("gaussian", 11)
    query = rng.normal(size=(1, WIDTH)).astype(np.float32)
    # A query that sees a deviation of a third.
    query *= np.float32(1 / 3 / error_of(fitted(bits=2.0), keys, query)[1].deviation[0])
    exponent, tilt, broken, draws = 1.0, 0.8, 0, 400
    slackest = np.inf
    for seed in range(draws):
        codec = fitted(seed=seed, bits=2.0)
        errors, law = error_of(codec, keys, query)
        law = tuple(float(part[0]) for part in law)
        exact = (query.astype(np.float64) @ keys.astype(np.float64).T)[0]
        exact, estimates = exact - exact.max(), exact - exact.max() + errors[0]
        tau = np.quantile(exact, 0.7)
        # Keys whose estimate flatters them: the sum of their estimates is furthest below that of their masses.
        eliminated = (estimates < tau) & (errors[0] < law[0])
        bound = literal_bound(estimates, exact, eliminated, tau, tilt, exponent, law)
        truth = np.exp(exact[eliminated]).sum()
        broken += truth > bound
        slackest = min(slackest, bound / truth)
    assert broken <= draws * np.exp(-exponent) + 4 * np.sqrt(draws * np.exp(-exponent))
    # The attack comes close, so it is one.
    assert slackest < 2.0


WIDE = 64


def wide_case(keys=3000, queries=3, seed=0, bits=2.5, magnitude=0.5):
    """Attention that is spread over many keys, and head_dim 64: where elimination is hard."""
    rng = np.random.default_rng(seed)
    shape = np.linspace(1.5, 0.5, WIDE)
    found = (rng.normal(size=(keys, WIDE)) * shape + 2.0).astype(np.float16)
    asked = (rng.normal(size=(GROUP, queries, WIDE)) * magnitude).astype(np.float32)
    visible = cold_range(np.full(queries, keys - 1), np.zeros(queries, np.int64), 2, 8)
    logits = scores(asked, found.astype(np.float32), SCALE, visible=visible)
    values = rng.normal(size=(keys, 5)).astype(np.float16)
    truth = Truth.of(asked, found, logits, values, visible, SCALE, 6)
    more = rng.normal(size=(2000, WIDE)) * shape + 2.0
    codec = Dithered.of(level_bytes([bits], WIDE), 3).fit(more, rng.normal(size=(500, WIDE)))
    return found, asked, truth, codec, more


@pytest.mark.parametrize(("magnitude", "share", "loosest"), [(0.5, 0.2, 1.35), (0.75, 0.01, 1.7)])
def test_what_is_certified_is_the_literal_bound_and_no_less(magnitude, share, loosest):
    keys, queries, truth, codec, _ = wide_case(magnitude=magnitude)
    dithers = read(codec, keys, queries)
    outcome = certify_by_chance(dithers, truth, costs_of(codec, 5), 0.1, 1e-6)
    cold = truth.visible.mask(len(keys))
    assert outcome.elimination.min() > share
    for head in range(GROUP):
        for query in range(3):
            some = cold[query]
            law = tuple(float(part[head, query]) for part in dithers.law)
            eliminated = ~outcome.kept[head, query][some]
            exact, estimates = (
                part[head, query][some].astype(np.float64) for part in (truth.scores, dithers.upper)
            )
            least = estimates[eliminated].max()
            exponent = np.log(2 * GRID * len(TILTS) / 1e-6)
            farthest = law[2] * np.sqrt(2 * np.log(2 * some.sum() / 1e-6))
            bounds = [
                literal_bound(estimates, exact, eliminated, least, tilt, exponent, law, farthest)
                for tilt in TILTS
            ]
            kept = np.exp(truth.scores[head, query][~some & np.isfinite(truth.scores[head, query])]).sum()
            kept += np.exp(exact[~eliminated]).sum()
            certified = outcome.certified[head, query]
            bound = certified / (1 - certified) * kept
            # Steps of thresholds (an eighth) and of charges (a sixteenth) make it more, the more the wider the law is.
            assert min(bounds) * 0.999 <= bound <= loosest * min(bounds)


def test_over_many_keys_chance_proves_more_than_the_worst_direction_at_the_same_bytes():
    keys, queries, truth, codec, more = wide_case(6000)
    chance = certify_by_chance(read(codec, keys, queries), truth, costs_of(codec, 5), 0.05, 1e-12)
    others = np.random.default_rng(1).normal(size=(500, WIDE))
    plain = CodecBounds(by_name.make("transform_code", codec.code_bytes).fit(more, others))
    found = plain.write(keys).bounds(queries.reshape(-1, WIDE), SCALE)
    lower, upper = (
        np.stack([part.reshape(truth.scores.shape), exact])
        for part, exact in ((found.lower, truth.low), (found.upper, truth.high))
    )
    powers = Powers.of(lower, upper, truth)
    sure = certify_mass(lower, upper, powers, truth, costs_of(codec, 5), (0.97,), 0.05)
    assert chance.elimination.mean() > 1.2 * sure.elimination.mean() > 0


def test_a_smaller_chance_of_failure_eliminates_less_and_certainty_nothing():
    keys, queries, truth, codec, _ = wide_case()
    dithers, costs = read(codec, keys, queries), costs_of(codec, 5)
    found = [
        certify_by_chance(dithers, truth, costs, 0.1, failure).elimination.mean()
        for failure in (1e-2, 1e-6, 1e-12, 1e-250)
    ]
    assert found == sorted(found, reverse=True)
    assert found[0] > found[2] > found[3]


def test_bytes_are_the_record_of_every_cold_key_and_the_rest_of_those_that_stay():
    keys, queries, truth, codec, _ = wide_case()
    outcome = certify_by_chance(
        read(codec, keys, queries), truth, costs_of(codec, 5), 0.1, 1e-6, together=True
    )
    cold, visible = truth.visible.cold, truth.visible.visible
    stays = (1 - outcome.elimination[0]) * cold
    full = visible * (2 * WIDE + 2 * 5)
    exact = (visible - cold) * (2 * WIDE + 2 * 5)
    nested, record = codec.level_bytes.sum(), codec.level_bytes[0]
    assert (nested, record) == (2 * WIDE, 2.5 * WIDE / 8 + 1)
    assert outcome.group_nested == pytest.approx(
        (record * (cold - stays) + (nested + 10) * stays + exact) / full
    )
    assert outcome.group_additive == pytest.approx((record * cold + (2 * WIDE + 10) * stays + exact) / full)
    assert (outcome.values_unread == outcome.elimination).all()


def test_a_query_without_cold_keys_drops_nothing():
    keys, queries, _, codec, _ = wide_case(keys=10)
    visible = cold_range(np.array([3, 5, 9]), np.zeros(3, np.int64), 2, 8)
    logits = scores(queries, keys.astype(np.float32), SCALE, visible=visible)
    truth = Truth.of(queries, keys, logits, None, visible, SCALE, 6)
    outcome = certify_by_chance(read(codec, keys, queries), truth, costs_of(codec, 0), 0.1, 1e-6)
    assert (outcome.dropped == 0).all()
    assert (outcome.certified == 0).all()


def test_keys_beyond_the_range_keep_what_was_clipped_in_their_bounds():
    codec = fitted()
    keys = make_keys("huge", 1)
    queries = make_queries("gaussian", 2, 0.1)
    dithers = read(codec, keys, queries)
    exact = queries.astype(np.float64) @ keys.astype(np.float64).T * SCALE
    reach = np.sqrt(2 * np.log(2e12)) * dithers.law.deviation[..., None]
    assert (dithers.upper + reach >= exact).all()


def test_no_key_is_longer_than_a_record_says_whatever_the_coins_are():
    # Two coordinates of 4 bits; a key at the end of the range, which coins may draw inwards.
    rng = np.random.default_rng(0)
    near = rng.uniform(-1, 1, size=(4000, 2))
    for seed in range(50):
        codec = Dithered.of((1, 3), seed).fit(np.concatenate([near, -near]), np.eye(2))
        key = np.ones((1, 2))
        records = codec.encode(key)
        for level in (0, 1):
            assert codec.decode(records, level).longest >= np.linalg.norm(key)


def test_less_than_a_bit_a_coordinate_is_refused():
    with pytest.raises(ValueError, match="one bit"):
        Dithered.of((1, 29), 0).fit(*calibration(1))
