"""What is not a number fails every check, keeps every key, and no fit divides by nothing."""

import numpy as np
import pytest

from ghostkv.captures.capture_files import LayerCapture
from ghostkv.codecs import by_name
from ghostkv.codecs.learned import Learned
from ghostkv.codecs.nested import Nested
from ghostkv.elimination.attention import ColdRange, cold_range
from ghostkv.elimination.bounds import CodecBounds, count_violations
from ghostkv.elimination.certificates import certify_mass, certify_topk
from ghostkv.elimination.metrics import bound_errors
from ghostkv.elimination.powers import Powers
from ghostkv.elimination.thresholds import RULES, reference, statistic
from ghostkv.stages.certificates.bounders import Clusters, LowBit, PageBoxes
from ghostkv.stages.hierarchy.anchors import BOUNDS, upper_bounds, write
from tests.elimination.test_certificates import SHARES, TOP_K, calibration, fitted, make_keys, usual

WIDTH = 16
VISIBLE = ColdRange(np.zeros(1, np.int64), np.array([8]), np.array([1]), np.array([7]))


@pytest.mark.parametrize("where", ["score", "lower", "upper"])
def test_a_bound_or_score_that_is_no_number_is_a_violation(where):
    arrays = {"score": np.zeros((1, 1, 8), np.float32)}
    arrays |= {"lower": arrays["score"] - 1, "upper": arrays["score"] + 1}
    cold = VISIBLE.start, VISIBLE.stop
    assert count_violations(*arrays.values(), *cold) == (6, 0)
    arrays[where][0, 0, 3] = np.nan
    assert count_violations(*arrays.values(), *cold) == (6, 1)


@pytest.mark.parametrize("where", ["exact", "estimates", "weight", "radius", "slack"])
def test_an_error_or_margin_that_is_no_number_is_a_violation(where):
    shape = (1, 1, 8)
    arrays = {"exact": np.zeros(shape, np.float32), "estimates": np.full(shape, 0.5, np.float32)}
    arrays |= {"weight": np.ones(shape[:2], np.float32), "radius": np.ones(8, np.float32)}
    arrays["slack"] = np.zeros(shape[:2], np.float32)
    assert bound_errors(*arrays.values(), VISIBLE)[:2] == (6, 0)
    of_all = where in ("weight", "slack")
    arrays[where][..., 0 if of_all else 3] = np.nan
    assert bound_errors(*arrays.values(), VISIBLE)[1] == (6 if of_all else 1)


def test_a_certificate_over_scores_that_are_no_numbers_is_violated():
    case, lower, upper = usual()
    scores, mass = case.truth.scores.copy(), case.truth.mass.copy()
    key = int(case.visible.start[0])
    scores[0, 0, key], mass[0, 0, key] = np.nan, np.nan
    truth = case.truth._replace(scores=scores, mass=mass)
    # The key is left out: its bounds are told to be low.
    for side in (lower, upper):
        side[:, 0, 0, key] = -1e3
    assert certify_topk(lower, upper, truth, case.costs, (8, 0, 0), TOP_K).violated[0, 0] == 1
    powers = Powers.of(lower, upper, truth)
    assert certify_mass(lower, upper, powers, truth, case.costs, SHARES, 0.1).violated[0, 0] == 1


# The rule `absolute` measures from nothing.
@pytest.mark.parametrize(
    ("rule", "where"),
    [
        (rule, where)
        for rule in RULES
        for where in ("estimates", "origin", "weight")
        if (rule, where) != ("absolute", "origin")
    ],
)
def test_a_statistic_that_is_no_number_keeps_its_key(rule, where):
    known = np.zeros((1, 1, 8), np.float32)
    arrays = {"estimates": known.copy(), "origin": reference(rule, known, VISIBLE, 3)}
    arrays["weight"] = np.ones((1, 1), np.float32)
    arrays[where][..., 0 if arrays[where].ndim == 2 else 3] = np.nan
    found = statistic(rule, *arrays.values(), np.ones(8, np.float32), VISIBLE)
    assert np.isposinf(found[0, 0, 3])


def degenerate(kind):
    rng = np.random.default_rng(0)
    keys, queries = rng.normal(size=(60, WIDTH)), rng.normal(size=(40, WIDTH))
    return {
        "zero_queries": (keys, queries * 0),
        "tiny_queries": (keys, queries * 1e-30),
        "one_query": (keys, queries[:1]),
        "equal_keys": (np.repeat(keys[:1], 60, axis=0), queries),
        "zero_keys": (keys * 0, queries),
        "one_key": (keys[:1], queries),
        "zero_everything": (keys * 0, queries * 0),
        "huge_keys": (keys.clip(-1, 1) * 65504, queries),
        "tiny_keys": (keys * 6e-8, queries),
        "huge_queries": (keys, queries * 1e12),
        "one_direction": (np.outer(keys[:, 0], queries[0]), np.outer(queries[:, 0], keys[0])),
    }[kind]


@pytest.mark.parametrize("name", [*by_name.names(), "learned", "nested"])
@pytest.mark.parametrize(
    "kind",
    ["zero_queries", "tiny_queries", "one_query", "equal_keys", "zero_keys", "one_key", "zero_everything",
     "huge_keys", "tiny_keys", "huge_queries", "one_direction"],
)  # fmt: skip
def test_a_degenerate_fit_still_bounds_every_score(name, kind):
    keys, queries = degenerate(kind)
    make = {"learned": lambda: Learned(4, frame=np.eye(WIDTH)), "nested": lambda: Nested.of((2, 2, 4))}
    codec = make.get(name, lambda: by_name.make(name, 4, 1))().fit(keys, queries)
    for seen, asked in ((keys, queries), degenerate("zero_queries"), (keys, degenerate("one_key")[1])):
        seen = seen.astype(np.float16).astype(np.float64)
        found = CodecBounds(codec).write(seen).bounds(asked, 0.25)
        exact = 0.25 * asked @ seen.T
        assert ((found.lower <= exact) & (exact <= found.upper)).all()
        assert np.isfinite(codec.metric_).all()
        assert np.linalg.cond(codec.metric_) < 1e9
    # What it was fitted on it also bounds by something.
    assert np.isfinite(codec.decode(codec.encode(keys)).radius).all()


BOUNDERS = {
    "codec": lambda: CodecBounds(by_name.make("transform_code", 4).fit(*calibration(1))),
    "low_bit": lambda: LowBit(3).fit(calibration(1)[0]),
    "page_box": lambda: PageBoxes(8),
    "ball": lambda: Clusters("ball", 8),
    "cone": lambda: Clusters("cone", 8),
    "nested": lambda: CodecBounds(fitted("right")),
}


@pytest.mark.parametrize("name", BOUNDERS)
def test_bounds_hold_for_a_negative_scale(name):
    keys = make_keys("gaussian", 4)
    queries = np.random.default_rng(2).normal(size=(20, WIDTH)).astype(np.float32)
    bounder = BOUNDERS[name]().write(keys)
    found, mirrored = bounder.bounds(queries, -0.3), bounder.bounds(-queries, 0.3)
    exact = -0.3 * queries.astype(np.float64) @ keys.astype(np.float64).T
    assert ((found.lower <= exact) & (exact <= found.upper)).all()
    np.testing.assert_allclose(
        found.upper - found.lower, mirrored.upper - mirrored.lower, rtol=1e-4, atol=1e-3
    )


@pytest.mark.parametrize("bound", BOUNDS)
def test_clusters_of_an_index_hold_for_a_negative_scale(bound):
    keys, codec = make_keys("gaussian", 4), fitted("right")
    queries = np.random.default_rng(2).normal(size=(20, WIDTH)).astype(np.float32)
    owner = np.arange(len(keys)) // 8
    _, upper = upper_bounds(write(codec, keys, owner, bound), codec, queries, -0.3)
    exact = -0.3 * queries.astype(np.float64) @ keys.astype(np.float64).T
    assert (exact <= upper[:, owner]).all()


def test_a_capture_of_negative_scale_is_swept_with_its_margins():
    """The weight of a margin is a length: it knows no sign."""
    layer = LayerCapture(0, make_keys("gaussian", 1)[None], None, np.ones((1, 1, WIDTH), np.float32), None,
                         np.array([150], np.int32), -0.3)  # fmt: skip
    visible = cold_range(layer.positions, layer.first_visible(), 2, 8)
    codec = by_name.make("transform_code", 4).fit(*calibration(1))
    projected, decoded = codec.project(layer.queries[0]), codec.decode(codec.encode(layer.keys[0]))
    exact = (layer.queries @ layer.keys[0].astype(np.float32).T * np.float32(-0.3)).astype(np.float32)
    estimates = codec.estimate(projected, decoded, -0.3)[None]
    pairs, violations, *_ = bound_errors(
        exact,
        estimates,
        projected.weight(-0.3)[None],
        decoded.radius,
        projected.slack(-0.3, decoded)[None],
        visible,
    )
    assert pairs > 100
    assert violations == 0
