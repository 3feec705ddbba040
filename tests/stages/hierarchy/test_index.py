"""Anchors bound every member in float64, appended blocks leave old bounds alone, and the scan loses nothing."""

import functools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ghostkv.codecs.nested import Nested
from ghostkv.elimination.attention import cold_range, scores
from ghostkv.elimination.certificates import certify_topk
from ghostkv.elimination.ledger import Costs
from ghostkv.elimination.nested_bounds import read_levels
from ghostkv.elimination.truth import Truth
from ghostkv.stages.hierarchy.anchors import BOUNDS, upper_bounds, write
from ghostkv.stages.hierarchy.index import Index, IndexSpec, members_above
from ghostkv.stages.hierarchy.partitions import PARTITIONS, partition
from ghostkv.stages.hierarchy.rows import SHARES, calibrate_share, compare_mass, needed_share
from ghostkv.stages.hierarchy.scan import ScanRule, scan_topk
from ghostkv.stages.hierarchy.tables import pays_from, power_law
from ghostkv.stages.hierarchy.view import LateView

WIDTH, LEVELS = 8, (1, 1, 1, 2, 4)
SINKS, HOT, TOP_K = 2, 4, 6


@functools.cache
def codec():
    rng = np.random.default_rng(0)
    mix = rng.normal(size=(WIDTH, WIDTH)) * 1.5 ** -np.arange(WIDTH)
    return Nested.of(LEVELS).fit(rng.normal(size=(400, WIDTH)) @ mix + 1, rng.normal(size=(300, WIDTH)) + 0.3)


def make_keys(rng, count, kind):
    keys = rng.normal(size=(count, WIDTH)) * 2
    if kind == "huge":
        keys *= 3000
    elif kind == "denormal":
        keys *= 1e-7
    elif kind == "equal":
        keys[:] = keys[0]
    elif kind == "zero":
        keys[:] = 0
    elif kind == "mean":
        keys[:] = codec().mean_
    elif kind == "one_hot":
        keys = np.eye(WIDTH)[rng.integers(0, WIDTH, count)] * 7
    elif kind == "outlier":
        keys[rng.integers(count)] *= 1000
    elif kind == "drift":
        keys += np.arange(count)[:, None] * 0.2
    return keys.clip(-60000, 60000).astype(np.float16)


KINDS = ("plain", "huge", "denormal", "equal", "zero", "mean", "one_hot", "outlier", "drift")


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(1, 60),
    kind=st.sampled_from(KINDS),
    how=st.sampled_from(PARTITIONS),
    bound=st.sampled_from(BOUNDS),
    leaf=st.integers(2, 9),
    size=st.sampled_from([1e-20, 1e-3, 1.0, 30.0]),
    softcap=st.sampled_from([0.0, 0.0, 20.0]),
)
def test_no_member_scores_above_its_anchor(seed, count, kind, how, bound, leaf, size, softcap):
    rng = np.random.default_rng(seed)
    keys = make_keys(rng, count, kind)
    queries = (rng.normal(size=(5, WIDTH)) * size).astype(np.float32)
    queries[0] = codec().mean_ * size
    queries[1] = keys[rng.integers(count)] * np.float32(min(size, 1.0))
    owner = partition((keys - codec().mean_) @ codec().encoder_.T, leaf, how)
    anchors = write(codec(), keys, owner, bound)
    _, upper = upper_bounds(anchors, codec(), queries, 0.35, softcap)
    exact = queries.astype(np.float64) @ keys.astype(np.float64).T * 0.35
    single = (queries * np.float32(0.35)) @ keys.astype(np.float32).T
    if softcap:
        exact, single = softcap * np.tanh(exact / softcap), softcap * np.tanh(single / softcap)
    assert not np.isnan(upper).any()
    assert (exact <= upper[:, owner]).all()
    assert (single <= upper[:, owner]).all()


@pytest.mark.parametrize("bound", BOUNDS)
def test_a_bound_says_something(bound):
    # Three tight clusters far apart: what is sound must also rule something out.
    rng = np.random.default_rng(1)
    keys = (np.repeat(np.eye(WIDTH)[:3] * 9, 8, axis=0) + rng.normal(size=(24, WIDTH)) * 0.01).astype(
        np.float16
    )
    owner = np.arange(24) // 8
    query = np.eye(WIDTH, dtype=np.float32)[:1]
    _, upper = upper_bounds(write(codec(), keys, owner, bound), codec(), query, 1.0)
    exact = (query @ keys.astype(np.float32).T).reshape(3, 8).max(axis=1)
    assert upper[0, 0] >= exact[0]
    assert (upper[0, 1:] < exact[0]).all()


@pytest.mark.parametrize("how", PARTITIONS)
@pytest.mark.parametrize("count", [0, 1, 7, 100])
def test_partitions_cover_every_key_without_gaps(how, count):
    points = np.random.default_rng(2).normal(size=(count, 5))
    points[: count // 2] = 1.0
    owner = partition(points, 4, how)
    assert len(owner) == count
    if count:
        sizes = np.bincount(owner)
        assert sizes.min() > 0
        assert sizes.max() <= (8 if how == "kmeans" else 4)


def test_an_unknown_partition_is_refused():
    with pytest.raises(ValueError, match="telepathy.*pages"):
        partition(np.zeros((3, 2)), 2, "telepathy")


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    steps=st.lists(st.integers(1, 30), min_size=1, max_size=6),
    levels=st.sampled_from([1, 2]),
    bound=st.sampled_from(BOUNDS),
)
def test_appending_changes_no_bound_and_keeps_all_valid(seed, steps, levels, bound):
    rng = np.random.default_rng(seed)
    keys = make_keys(rng, SINKS + sum(steps), "drift")
    queries = rng.normal(size=(2, 3, WIDTH)).astype(np.float32)
    index = Index(codec(), keys, IndexSpec("kmeans", 3, bound, levels), SINKS)
    exact = queries.astype(np.float64) @ keys.astype(np.float64).T
    before, stop = None, SINKS
    for step in steps:
        stop += step
        index.append(stop)
        reach = index.upper(queries, 1.0)
        if before is not None:
            np.testing.assert_array_equal(reach.upper[..., : before.upper.shape[-1]], before.upper)
        before = reach
        assert sorted(index.members) == list(range(SINKS, stop))
        for what, checks, violations in members_above(index, reach, exact):
            assert (checks, violations) == (6 * (stop - SINKS), 0), what
    assert index.append(stop) is index
    leaves, _, first = index.ready(np.array([SINKS, stop - 1, stop, stop + 50]))
    assert leaves[0] == 0
    assert first[0] == SINKS
    assert (leaves[2:] == len(index.leaves)).all()
    assert first[1] <= stop - 1


def make_view(seed, tokens=160, queries=7, kind="plain", window=0):
    rng = np.random.default_rng(seed)
    keys = make_keys(rng, tokens, kind)
    asked = (rng.normal(size=(2, queries, WIDTH)) + 0.3).astype(np.float32)
    positions = np.linspace(tokens // 2, tokens - 1, queries).astype(np.int32)
    first = np.maximum(positions - window + 1, 0) if window else np.zeros_like(positions)
    visible = cold_range(positions, first, SINKS, HOT)
    logits = scores(asked, keys.astype(np.float32), 0.5, visible=visible)
    truth = Truth.of(asked, keys, logits, None, visible, 0.5, TOP_K)
    lower, upper = bounds = np.empty((2, len(LEVELS), 2, queries, tokens), np.float32)
    for _ in read_levels(
        codec(), codec().decode_levels(codec().encode(keys)), asked, 0.5, 0.0, bounds, np.empty_like(lower[0])
    ):
        pass
    costs = Costs.of(codec().level_bytes[:-1], codec().level_bytes.sum(), WIDTH, 0)
    return LateView(keys, asked, lower, upper, truth, costs, 0.5, 0.0, int(visible.stop.min()))


def make_scan(**changes):
    return ScanRule(**{"top_k": TOP_K, "probes": 4, "seed_keys": 12, "bypass": False, "refresh": 4} | changes)


def test_the_flat_scan_is_the_top_k_certificate():
    view = make_view(3)
    found = scan_topk(view.lower, view.upper, view.truth, view.costs, make_scan())
    probes = [4] + [0] * (len(LEVELS) - 2)
    outcome = certify_topk(view.lower, view.upper, view.truth, view.costs, probes, TOP_K)
    full = view.truth.visible.visible * view.costs.pair
    np.testing.assert_allclose(found.bytes / full, outcome.bytes_nested)
    np.testing.assert_allclose(found.group_bytes / full, outcome.group_nested)
    np.testing.assert_array_equal(found.kept, outcome.kept)
    assert (found.records == view.truth.visible.cold).all()
    assert not found.anchors.any()


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    kind=st.sampled_from(KINDS),
    how=st.sampled_from(PARTITIONS),
    bound=st.sampled_from(BOUNDS),
    leaf=st.integers(2, 9),
    levels=st.sampled_from([1, 2]),
    bypass=st.booleans(),
    window=st.sampled_from([0, 40]),
)
def test_the_indexed_scan_loses_no_key_of_the_exact_top_k(
    seed, kind, how, bound, leaf, levels, bypass, window
):
    view = make_view(seed, kind=kind, window=window)
    index = Index(codec(), view.keys, IndexSpec(how, leaf, bound, levels), SINKS)
    index.append(view.grown_from).append_chunks(int(view.truth.visible.stop.max()), 16)
    reach = index.upper(view.queries, 0.5)
    found = scan_topk(view.lower, view.upper, view.truth, view.costs, make_scan(bypass=bypass), index, reach)
    assert not found.missed.any()
    # By brute force: every key whose exact score reaches the k-th best is kept.
    for g, q in np.ndindex(*view.truth.tau.shape):
        row = view.truth.scores[g, q]
        best = np.flatnonzero((row >= np.sort(row)[-TOP_K]) & np.isfinite(row))
        assert found.kept[g, q, best].all()
    assert (found.records <= view.truth.visible.cold).all()
    assert (found.anchors <= len(index.leaves) + (len(index.coarse) if index.coarse is not None else 0)).all()
    assert (found.level_reads >= found.records).all()
    assert (found.scan_bytes >= found.anchors * index.anchor_bytes).all()


def test_reads_of_a_scan_by_hand():
    # Without bypass and with one level, every ready anchor is read, and a cluster is opened exactly when it is seeded
    # or may reach the threshold.
    view = make_view(5)
    index = Index(codec(), view.keys, IndexSpec("kmeans", 4, "wide"), SINKS).append(view.grown_from)
    reach = index.upper(view.queries, 0.5)
    found = scan_topk(view.lower, view.upper, view.truth, view.costs, make_scan(), index, reach)
    assert (found.anchors == len(index.leaves)).all()
    sizes = np.diff(index.offsets)
    pending = view.truth.visible.stop - view.grown_from
    opened = (found.seeded > 0) | ~(reach.upper < found.first_theta[..., None].astype(np.float32))
    np.testing.assert_array_equal(found.records, (opened * sizes).sum(axis=-1) + pending)
    assert (found.records < view.truth.visible.cold).any()
    assert (found.first_theta <= view.truth.tau).all()


def test_a_lying_anchor_is_caught():
    view = make_view(6)
    index = Index(codec(), view.keys, IndexSpec("kmeans", 4, "box"), SINKS).append(view.grown_from)
    reach = index.upper(view.queries, 0.5)
    lie = type(reach)(reach.middle - 99, reach.upper - 99, reach.coarse_middle, reach.coarse_upper)
    assert sum(violations for _, _, violations in members_above(index, lie, view.exact)) > 0
    found = scan_topk(view.lower, view.upper, view.truth, view.costs, make_scan(seed_keys=4), index, lie)
    assert found.missed.any()


def test_dropped_mass_holds_with_an_index():
    view = make_view(7)
    index = Index(codec(), view.keys, IndexSpec("kmeans", 2, "wide"), SINKS).append(view.grown_from)
    reach = index.upper(view.queries, 0.5)
    shares = [0.1, 0.3, 0.6, 0.9]
    flat, found, reads = compare_mass(view, index, reach, shares, 0.2)
    cold = view.truth.visible.cold
    assert not found.violated.any()
    assert not flat.violated.any()
    assert (found.dropped <= found.certified + 1e-12).all()
    assert (reads >= 0).all()
    assert (reads <= cold).all()
    assert (reads < cold).any()


def test_the_share_that_is_needed_predicts_what_a_shrunk_scan_misses():
    view = make_view(8, tokens=300, queries=12)
    index = Index(codec(), view.keys, IndexSpec("kmeans", 4, "ball"), SINKS).append(view.grown_from)
    reach = index.upper(view.queries, 0.5)
    scan = make_scan(seed_keys=8)
    whole = scan_topk(view.lower, view.upper, view.truth, view.costs, scan, index, reach)
    fer, _ = needed_share(view, index, reach, whole, TOP_K)
    assert (fer[..., -1] == 0).all()
    assert fer[..., 0].sum() > 0
    for share in (4, 20):
        shrunk = reach.shrunk(np.full(2, SHARES[share]))
        found = scan_topk(view.lower, view.upper, view.truth, view.costs, scan, index, shrunk)
        # Keys within rounding of the threshold may differ.
        assert np.abs(found.missed / TOP_K - fer[..., share]).sum() <= 2 / TOP_K


def test_risk_control_by_hand():
    risk = np.tile(np.where(SHARES < 0.5, 0.02, 0.0), (1, 199, 1))
    # (199 * 0 + 1) / 200 = 0.005, and (199 * 0.02 + 1) / 200 = 0.0249
    assert calibrate_share([risk], 0.01) == pytest.approx([0.5])
    assert calibrate_share([risk], 0.03) == [0.0]
    assert calibrate_share([risk[:, :50]], 0.01) == [1.0]  # 1 / 51 is already more


def test_power_laws_and_where_they_cross():
    keys, texts = np.array([500.0, 1000.0, 4000.0, 8000.0]), np.array(["a", "b", "a", "b"])
    factor, exponent, low, high = power_law(keys, 3 * keys**-0.25, texts)
    assert (factor, exponent) == pytest.approx((3, -0.25))
    assert low == pytest.approx(high)
    assert pays_from(factor, exponent, 0.5) == pytest.approx(6**4)
    assert pays_from(2.0, 0.1, 1.0) is None
    assert pays_from(0.5, 0.0, 1.0) == 0.0
    noisy = power_law(keys, keys * np.array([1.1, 0.9, 1.2, 0.8]), texts)
    assert noisy[2] < 1 < noisy[3]
    # One text says nothing of others, however many lengths of it there are; nor do texts of one length each.
    for few in (keys[:1], texts[:1]), (keys, np.array(["a"] * 4)), (keys[:2], texts[:2]):
        assert power_law(few[0], few[0], few[1])[2:] == (-np.inf, np.inf)


def test_the_exponent_is_as_sure_as_its_texts_are_many():
    """Three lengths of a text that is off are off together: the interval covers, as one over points would not."""
    rng = np.random.default_rng(6)
    keys, texts = np.tile([1000.0, 2000.0, 4000.0], 8), np.repeat([f"t{i}" for i in range(8)], 3)
    hits = 0
    for _ in range(300):
        slopes = np.repeat(-0.2 + 0.1 * rng.normal(size=8), 3)
        _, exponent, low, high = power_law(keys, 2 * (keys / 2000.0) ** slopes, texts)
        assert low < exponent < high
        hits += low <= -0.2 <= high
    assert 0.91 <= hits / 300 <= 0.98
