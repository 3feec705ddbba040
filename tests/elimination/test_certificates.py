"""Certificates hold against scores in float64, whatever keys, queries and calibration are."""

from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ghostkv.codecs import by_name
from ghostkv.codecs.nested import Nested
from ghostkv.elimination.attention import cold_range, scores
from ghostkv.elimination.bounds import CodecBounds
from ghostkv.elimination.certificates import certify_mass, certify_topk
from ghostkv.elimination.compensation import cold_means, output_bound
from ghostkv.elimination.ledger import Costs
from ghostkv.elimination.nested_bounds import keep_in_full, read_levels
from ghostkv.elimination.powers import Powers
from ghostkv.elimination.truth import Truth, oracle_mass, oracle_topk
from ghostkv.stages.certificates.bounders import BlockInt8, Clusters, LowBit, PageBoxes

WIDTH, KEYS, GROUP, SINKS, HOT, TOP_K = 16, 160, 2, 2, 8, 6
LEVELS = (2, 2, 4, 24)
SHARES = (0.05, 0.3, 0.97)
KINDS = ["gaussian", "heavy", "rank_one", "duplicates", "tied", "huge", "denormal", "one_hot", "zero"]
SCALE = 0.3


def mixing(seed):
    return np.random.default_rng(seed).normal(size=(WIDTH, WIDTH)) * np.linspace(3, 0.1, WIDTH)


def calibration(seed, magnitude=1.0):
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(400, WIDTH)) @ mixing(seed) + 2.0) * magnitude, rng.normal(
        size=(150, WIDTH)
    ) @ mixing(seed)


@cache
def fitted(name):
    """A nested codec of the right layer, of another layer, or fitted on keys a hundred times smaller."""
    seed, magnitude = {"right": (1, 1.0), "shuffled": (2, 1.0), "small": (1, 0.01)}[name]
    return Nested.of(LEVELS).fit(*calibration(seed, magnitude))


def make_keys(kind, seed):
    rng = np.random.default_rng(seed)
    plain = rng.normal(size=(KEYS, WIDTH)) @ mixing(1) + 2.0
    made = {
        "gaussian": lambda: plain,
        "heavy": lambda: rng.standard_t(1.1, size=(KEYS, WIDTH)).clip(-1e3, 1e3),
        "rank_one": lambda: np.outer(rng.normal(size=KEYS), rng.normal(size=WIDTH)),
        "duplicates": lambda: plain[rng.integers(0, 4, KEYS)],
        # Few distinct values along the only direction that queries see: scores tie at theta.
        "tied": lambda: (
            np.outer(rng.integers(-2, 3, KEYS), np.eye(WIDTH)[0]) + plain * (np.arange(WIDTH) > 0)
        ),
        "huge": lambda: rng.choice([-6e4, 6e4], size=(KEYS, WIDTH)) * rng.random((KEYS, 1)),
        "denormal": lambda: rng.normal(size=(KEYS, WIDTH)) * 2e-7,
        "one_hot": lambda: np.eye(WIDTH)[rng.integers(0, WIDTH, KEYS)],
        "zero": lambda: np.zeros((KEYS, WIDTH)),
    }[kind]()
    return made.astype(np.float16)


def make_queries(kind, seed, magnitude):
    rng = np.random.default_rng(seed + 1)
    queries = rng.normal(size=(GROUP, 4, WIDTH)) @ mixing(1) * magnitude
    if kind == "tied":
        queries = queries * (np.arange(WIDTH) == 0)
    return queries.astype(np.float32)


class Case:
    """One view: float32 attention for the lab, float64 attention to judge it."""

    def __init__(self, keys, queries):
        self.keys, self.queries = keys, queries
        self.positions = np.array([40, 90, 120, KEYS - 1])
        self.visible = cold_range(self.positions, np.zeros(4, np.int64), SINKS, HOT)
        logits = scores(queries, keys.astype(np.float32), SCALE, visible=self.visible)
        values = np.random.default_rng(0).normal(size=(KEYS, 5)).astype(np.float16)
        self.truth = Truth.of(queries, keys, logits, values, self.visible, SCALE, TOP_K)
        self.exact = queries.astype(np.float64) @ keys.astype(np.float64).T * SCALE
        self.exact[np.isneginf(logits)] = -np.inf
        self.costs = Costs.of((3, 3, 5), 36, WIDTH, 5)

    def flat(self):
        return self.queries.reshape(-1, WIDTH)

    def nested_bounds(self, codec):
        shape = (len(codec.levels), *self.exact.shape)
        lower, upper = np.empty(shape, np.float32), np.empty(shape, np.float32)
        records, estimates = codec.encode(self.keys), np.empty(self.exact.shape, np.float32)
        for _ in read_levels(
            codec, codec.decode_levels(records), self.queries, SCALE, 0.0, (lower, upper), estimates
        ):
            pass
        keep_in_full(lower, upper, self.truth, records.rho[:, -1] == 255)
        return lower, upper

    def assert_bounds_hold(self, lower, upper):
        seen = np.isfinite(self.exact)
        assert (lower[..., seen] <= self.exact[seen]).all()
        assert (upper[..., seen] >= self.exact[seen]).all()

    def assert_topk_holds(self, outcome):
        kth = np.sort(self.exact, axis=-1)[..., -TOP_K, None]
        # Every key that ties with the k-th best stays as well: FER is 0 however ties are broken.
        assert outcome.kept[self.exact >= kth].all()
        assert outcome.violated.sum() == 0

    def assert_mass_holds(self, outcome, delta, bounds):
        mass = np.exp(self.exact - self.exact.max(axis=-1, keepdims=True))
        mass /= mass.sum(axis=-1, keepdims=True)
        dropped = np.where(outcome.kept, 0.0, mass).sum(axis=-1)
        assert (dropped <= delta).all()
        assert (dropped <= outcome.certified * (1 + 1e-12)).all()
        assert outcome.violated.sum() == 0
        values = self.truth.values.astype(np.float64)
        # A reader of nested records has no exact score of a cold key: anything that the last bounds allow, here their middle.
        full, read = mass @ values, outcome.read
        kept = np.where(outcome.kept, mass, 0.0)
        exact = kept @ values / kept.sum(axis=-1, keepdims=True)
        off = np.linalg.norm(exact - read, axis=-1)
        sizes = np.where(np.isfinite(self.exact), np.abs(self.exact), 0.0)
        # Masses of the lab come from scores in float32.
        assert (off <= outcome.inexact * (1 + 1e-6) + 1e-6 + 2.0**-21 * sizes.max()).all()
        share = outcome.share
        # Scores of thousands are known to some 1e-4 in float32.
        rounding = 1e-4 + 2.0**-21 * sizes.max()
        np.testing.assert_allclose(share, self.tail_share(outcome, bounds), rtol=rounding, atol=1e-12)
        assert (share <= outcome.certified * (1 + 1e-5)).all()
        means, cold = cold_means(values, self.visible)[:, 0], self.visible.mask(KEYS)
        largest = np.where(cold, np.linalg.norm(values, axis=1), 0.0).max(axis=-1)
        compensated = (1 - share[..., None]) * read + share[..., None] * means
        error = np.linalg.norm(full - compensated, axis=-1)
        float32 = 1e-6 + 2.0**-21 * sizes.max()
        assert (error <= outcome.error_bound + float32).all()
        loose = (outcome.certified + share) * (largest + np.linalg.norm(read, axis=-1)) + outcome.inexact
        assert (outcome.error_bound <= loose * (1 + 1e-5) + 1e-12).all()
        plain = output_bound(outcome.certified, np.zeros_like(share), largest, read, means, outcome.inexact)
        assert (np.linalg.norm(full - read, axis=-1) <= plain + float32).all()

    def tail_share(self, outcome, bounds):
        """Written out in float64: every left key at the middle of the bounds known when it was left."""
        assert ((outcome.levels > 0) == (self.visible.mask(KEYS) & ~outcome.kept)).all()
        with np.errstate(invalid="ignore"):
            middle = sum(side.astype(np.float64) for side in bounds) / 2
        level = np.maximum(outcome.levels, 1)[None].astype(int) - 1
        left = np.where(outcome.levels > 0, np.take_along_axis(middle, level, 0)[0], -np.inf)
        stored = np.where(self.visible.mask(KEYS), np.nan_to_num(middle[-1], nan=-np.inf), self.exact)
        kept = np.where(outcome.kept, stored, -np.inf)
        top = kept.max(axis=-1, keepdims=True)
        tail, whole = (np.exp(part - top).sum(axis=-1) for part in (left, kept))
        return tail / (tail + whole)


cases = given(
    kind=st.sampled_from(KINDS),
    calibrated=st.sampled_from(["right", "shuffled", "small"]),
    seed=st.integers(0, 2**31),
    magnitude=st.sampled_from([1e-20, 1e-3, 0.1, 1.0, 30.0]),
    delta=st.sampled_from([0.3, 0.05, 1e-3]),
)


@settings(max_examples=250, deadline=None)
@cases
def test_a_cascade_never_loses_a_top_key_nor_more_mass_than_it_certifies(
    kind, calibrated, seed, magnitude, delta
):
    case = Case(make_keys(kind, seed), make_queries(kind, seed, magnitude))
    lower, upper = case.nested_bounds(fitted(calibrated))
    case.assert_bounds_hold(lower, upper)
    case.assert_topk_holds(certify_topk(lower, upper, case.truth, case.costs, (8, 0, 0), TOP_K))
    powers = Powers.of(lower, upper, case.truth)
    for together in (False, True):
        outcome = certify_mass(lower, upper, powers, case.truth, case.costs, SHARES, delta, together)
        case.assert_mass_holds(outcome, delta, (lower, upper))
    assert (outcome.kept == outcome.kept[:1])[np.isfinite(case.exact)].all()


@pytest.mark.parametrize(
    "name", ["low_bit", "block_int8", "page_box", "cluster_ball", "cluster_cone", "transform_code"]
)
@settings(max_examples=50, deadline=None)
@cases
def test_every_other_bound_certifies_soundly_too(name, kind, calibrated, seed, magnitude, delta):
    case = Case(make_keys(kind, seed), make_queries(kind, seed, magnitude))
    keys, queries = calibration(2 if calibrated == "shuffled" else 1, 0.01 if calibrated == "small" else 1.0)
    bounder = {
        "low_bit": lambda: LowBit(3).fit(keys),
        "block_int8": lambda: BlockInt8(12),
        "page_box": lambda: PageBoxes(8),
        "cluster_ball": lambda: Clusters("ball", 8),
        "cluster_cone": lambda: Clusters("cone", 8),
        "transform_code": lambda: CodecBounds(by_name.make("transform_code", 4).fit(keys, queries)),
    }[name]()
    found = bounder.write(case.keys).bounds(case.flat(), SCALE)
    lower = np.stack([found.lower.reshape(case.exact.shape), case.truth.low])
    upper = np.stack([found.upper.reshape(case.exact.shape), case.truth.high])
    case.assert_bounds_hold(lower, upper)
    case.assert_topk_holds(certify_topk(lower, upper, case.truth, case.costs, (8,), TOP_K))
    powers = Powers.of(lower, upper, case.truth)
    outcome = certify_mass(lower, upper, powers, case.truth, case.costs, (0.97,), delta)
    case.assert_mass_holds(outcome, delta, (lower, upper))


def usual(seed=3):
    case = Case(make_keys("gaussian", seed), make_queries("gaussian", seed, 0.2))
    return case, *case.nested_bounds(fitted("right"))


def test_on_keys_like_the_calibration_the_cascade_is_nearly_as_good_as_exact_scores():
    case, lower, upper = usual()
    outcome = certify_topk(lower, upper, case.truth, case.costs, (8, 0, 0), TOP_K)
    assert outcome.elimination.mean() > 0.85 * oracle_topk(case.truth).elimination.mean()
    mass = certify_mass(
        lower, upper, Powers.of(lower, upper, case.truth), case.truth, case.costs, SHARES, 0.1
    )
    oracle = oracle_mass(case.truth, [0.1])[0].elimination
    assert (mass.values_unread <= oracle + 1e-12).all()
    assert mass.values_unread.mean() > 0.8 * oracle.mean()


def test_heads_that_decide_together_read_less_than_the_union_of_what_each_would_read():
    # Attention that is spread out, where each head leaves out other keys.
    case = Case(make_keys("gaussian", 3), make_queries("gaussian", 3, 0.03))
    lower, upper = case.nested_bounds(fitted("right"))
    powers = Powers.of(lower, upper, case.truth)
    apart, together = (
        certify_mass(lower, upper, powers, case.truth, case.costs, SHARES, 0.1, each)
        for each in (False, True)
    )
    assert together.group_nested.mean() < 0.95 * apart.group_nested.mean()
    # Nothing is read of one head alone, so what a head reads is what its group reads.
    assert together.bytes_nested == pytest.approx(np.broadcast_to(together.group_nested, (GROUP, 4)))
    assert together.group_additive == pytest.approx(together.bytes_additive[0])


def test_a_shared_decision_over_exact_scores_is_that_of_the_literal_greedy():
    """Lowest first of the largest mass in any head, as long as no head loses more than delta."""
    case, *_ = usual()
    bounds = np.stack([case.truth.scores, case.truth.scores])
    found = certify_mass(
        bounds, bounds, Powers.of(bounds, bounds, case.truth), case.truth, case.costs, (1.0,), 0.1, True
    )
    ceiling = oracle_mass(case.truth, [0.1], together=True)[0].elimination
    mass = np.exp(case.exact - case.exact.max(axis=-1, keepdims=True))
    mass /= mass.sum(axis=-1, keepdims=True)
    for query in range(4):
        cold = np.arange(case.visible.start[query], case.visible.stop[query])
        spent, count = np.zeros(GROUP), 0
        for key in sorted(cold, key=lambda key: mass[:, query, key].max()):
            spent += mass[:, query, key]
            if spent.max() > 0.1:
                break
            count += 1
        assert ceiling[:, query] == pytest.approx(count / len(cold))
        # A key beyond the first that does not fit may still fit; keys of one bin, a sixteenth apart, go in order of place.
        assert abs(found.values_unread[0, query] * len(cold) - count) <= 0.05 * count + 2


def test_bounds_that_know_nothing_eliminate_nothing():
    case, lower, upper = usual()
    lower[:-1], upper[:-1] = -np.inf, np.inf
    top = certify_topk(lower, upper, case.truth, case.costs, (0, 0, 0), TOP_K)
    mass = certify_mass(
        lower, upper, Powers.of(lower, upper, case.truth), case.truth, case.costs, SHARES, 0.1
    )
    for outcome in (top, mass):
        assert (outcome.elimination == 0).all()
        assert outcome.values_unread.mean() > 0
    case.assert_topk_holds(top)
    case.assert_mass_holds(mass, 0.1, (lower, upper))


def test_a_false_bound_is_counted_as_a_violation():
    case, lower, upper = usual()
    best = np.argmax(
        np.where(case.visible.start[:, None] <= np.arange(KEYS), case.exact, -np.inf)[..., :30], axis=-1
    )
    np.put_along_axis(upper[0], best[..., None], -1e3, axis=-1)
    outcome = certify_topk(lower, upper, case.truth, case.costs, (0, 0, 0), TOP_K)
    lost = np.take_along_axis(case.exact, best[..., None], -1)[..., 0] >= case.truth.tau - 1e-6
    assert lost.any()
    assert (outcome.violated[lost] > 0).all()
    mass = certify_mass(
        lower, np.full_like(upper, -1e3), Powers.of(lower, np.full_like(upper, -1e3), case.truth),
        case.truth, case.costs, SHARES, 0.01,
    )  # fmt: skip
    assert mass.violated.sum() > 0


def test_bytes_are_counted_key_by_key_and_once_for_a_group():
    case, lower, upper = usual()
    lower[:-1], upper[:-1] = -np.inf, np.inf
    outcome = certify_topk(lower, upper, case.truth, case.costs, (0, 0, 0), TOP_K)
    cold, visible = case.visible.cold, case.visible.visible
    values = (1 - outcome.values_unread) * cold
    # Nothing is ever decided: all levels (11 bytes) and K of every cold key, V of those that K leaves in.
    full = visible * (2 * WIDTH + 2 * 5)
    exact = (visible - cold) * (2 * WIDTH + 2 * 5)
    assert outcome.bytes_nested == pytest.approx((36 * cold + 10 * values + exact) / full)
    assert outcome.bytes_additive == pytest.approx(((11 + 32) * cold + 10 * values + exact) / full)
    position = np.arange(KEYS)
    is_cold = (position >= case.visible.start[:, None]) & (position < case.visible.stop[:, None])
    union = (outcome.kept.any(axis=0) & is_cold).sum(axis=-1)
    assert outcome.group_nested == pytest.approx((36 * cold + 10 * union + exact) / full)
    assert outcome.group_additive == pytest.approx(((11 + 32) * cold + 10 * union + exact) / full)


def test_one_level_reads_one_level():
    case, lower, upper = usual()
    upper[0], lower[0] = -1e4, -2e4
    outcome = certify_topk(lower, upper, case.truth, case.costs, (0, 0, 0), TOP_K)
    assert (outcome.elimination == 1).all()
    ratio = (3 * case.visible.cold + 42 * (case.visible.visible - case.visible.cold)) / (
        42 * case.visible.visible
    )
    assert outcome.bytes_nested == pytest.approx(np.broadcast_to(ratio, (GROUP, 4)))
    assert outcome.group_additive == pytest.approx(ratio)


def test_a_sliding_window_hides_sinks_and_still_certifies():
    case = Case(make_keys("gaussian", 5), make_queries("gaussian", 5, 0.2))
    first = np.maximum(case.positions - 63, 0)
    case.visible = cold_range(case.positions, first, SINKS, HOT)
    logits = scores(case.queries, case.keys.astype(np.float32), SCALE, visible=case.visible)
    case.truth = Truth.of(case.queries, case.keys, logits, None, case.visible, SCALE, TOP_K)
    case.exact[np.isneginf(logits)] = -np.inf
    lower, upper = case.nested_bounds(fitted("right"))
    case.assert_topk_holds(certify_topk(lower, upper, case.truth, case.costs, (8, 0, 0), TOP_K))
    outcome = certify_mass(
        lower, upper, Powers.of(lower, upper, case.truth), case.truth, case.costs, SHARES, 0.1
    )
    assert outcome.violated.sum() == 0
    assert (outcome.error_bound == 0).all()
    assert (oracle_topk(case.truth).elimination <= 1).all()


def test_a_key_that_its_record_does_not_bound_is_exact_and_pays_for_its_float16():
    """One key far outside what the codec was fitted on: beside the record its K lies in float16, and is read from there."""
    keys = make_keys("gaussian", 3)
    keys[50] = keys[50] * np.float16(200)
    case = Case(keys, make_queries("gaussian", 3, 0.1))
    codec = fitted("right")
    escaped = codec.encode(keys).rho[:, -1] == 255
    assert escaped[50]
    assert not escaped.all()
    lower, upper = case.nested_bounds(codec)
    assert (lower[-1][..., 50] == case.truth.low[..., 50]).all()
    powers = Powers.of(lower, upper, case.truth)
    free = certify_mass(lower, upper, powers, case.truth, case.costs, SHARES, 0.05, True)
    paid = certify_mass(
        lower, upper, powers, case.truth, case.costs._replace(escaped=escaped), SHARES, 0.05, True
    )
    case.assert_mass_holds(paid, 0.05, (lower, upper))
    visible = case.visible.visible
    extra = (paid.group_nested - free.group_nested) * visible * case.costs.pair
    # Left with K in full, or kept: either way K was read, by both heads, which decide together.
    full = case.visible.mask(KEYS) & ((paid.levels[0] == 0) | (paid.levels[0] == len(lower)))
    assert full[1:, 50].all()
    np.testing.assert_allclose(extra, case.costs.key * (full & escaped).sum(axis=-1), atol=1e-9)
    np.testing.assert_array_equal(paid.group_additive, free.group_additive)
