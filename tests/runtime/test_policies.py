"""Every policy in the model's seat: certificates hold, selectors run, both paths agree."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from ghostkv.config.policies import (  # noqa: E402
    CertifiedMassPolicy,
    FullPolicy,
    GhostPolicy,
    OracleMassPolicy,
)
from ghostkv.elimination.attention import scores  # noqa: E402
from ghostkv.files.buffers import Space  # noqa: E402
from ghostkv.files.errors import ConfigError  # noqa: E402
from ghostkv.runtime import seated  # noqa: E402
from ghostkv.runtime.call_views import views  # noqa: E402
from ghostkv.runtime.certified import CertifiedMass  # noqa: E402
from ghostkv.runtime.combine import combine  # noqa: E402
from ghostkv.runtime.deciders import Call  # noqa: E402
from ghostkv.runtime.ghost_attention import set_policy  # noqa: E402
from ghostkv.runtime.load_policy import load_policy  # noqa: E402
from ghostkv.runtime.policy import Policy  # noqa: E402
from ghostkv.runtime.policy_fit import fit_theta  # noqa: E402
from ghostkv.runtime.seated import OracleMass, Seated  # noqa: E402
from ghostkv.runtime.sources import Sources  # noqa: E402
from ghostkv.selectors import make  # noqa: E402
from ghostkv.selectors.base import Calibration  # noqa: E402
from ghostkv.selectors.scenes import budget_of, calibration_view  # noqa: E402
from tests.runtime.ghost_fixtures import (  # noqa: E402
    CONTEXT,
    HEADS,
    KV_HEADS,
    LAYERS,
    block,
    captured,
    fitted,
    ghostly,
    nested,
    stepwise,
    text,
    tiny,
)

SMALL = {"sinks": 2, "hot": 8}
EXACT = {"sinks": 2, "hot": 8, "headline_start": 40}
SHARES = (0.05, 0.2, 0.5)
FIXED = ("streaming_llm", "h2o", "snapkv", "quest", "loki", "sparq", "double_sparsity", "pq", "oracle_topk")
# A token bucket over the queries of a call, or a threshold over them, cannot be the same for one query at a time.
POOLED = ("token_picker", "ghost", "oracle_topp", "magicpig")
OPTIONS = {
    "snapkv": {"observe": 4, "kernel": 1}, "quest": {"page": 8}, "loki": {"dims": 4}, "sparq": {"components": 4},
    "double_sparsity": {"channels": 4}, "pq": {"parts": 4, "bits": 4}, "ghost": {"bits": 2},
    "magicpig": {"bits": 4, "tables": 8},
}  # fmt: skip


@pytest.fixture(scope="module")
def captures():
    return captured(tiny())


def call(capture, positions: slice = slice(CONTEXT, 160), shared: bool = True) -> Call:
    """The last queries of a captured layer as a call of a batch of one."""
    return Call(
        np.ascontiguousarray(capture.queries[None, :, positions]),
        np.ascontiguousarray(capture.keys[None, :, : positions.stop]).astype(np.float32),
        np.ascontiguousarray(capture.values[None, :, : positions.stop]).astype(np.float32),
        np.zeros(1, np.int64), positions.start, capture.scale, 0.0, 2, 8, shared, capture.layer,
    )  # fmt: skip


def seated_policy(name: str, captures, ratio: float = 0.6) -> Policy:
    name, selector = make({"name": name} | OPTIONS.get(name, {}))
    deciders = {}
    for capture in captures:
        codecs, states = {("transform_code", 4): fitted(capture)}, []
        for head in range(capture.kv_heads):
            codec, keys = codecs["transform_code", 4][head], capture.keys[head]

            def records(_name, _size, codec=codec, keys=keys):
                return codec, codec.decode(codec.encode(keys))

            scene = calibration_view(capture, head, EXACT, records, Space())
            pairs = [(scene, budget_of(capture, scene.visible, [ratio]))]
            calibration = Calibration(keys.astype(np.float32), capture.group_queries(head), pairs, 0)
            states.append(selector.fit(calibration))
        deciders[capture.layer] = Seated(selector, states, ratio, name, codecs)
    return Policy(name, deciders, **SMALL)


@pytest.mark.parametrize("name", [*FIXED, *POOLED])
def test_every_selector_runs_in_the_model(name, captures):
    model = ghostly(tiny())
    traffic = set_policy(model, seated_policy(name, captures))
    logits = block(model, text())
    assert torch.isfinite(logits).all()
    found = traffic.summary()
    assert 0.0 < found["elimination"] < 1.0
    assert found["bytes_ratio"] <= 0.6 + 1e-9
    if name in FIXED:
        counted = traffic.layers()
        traffic.reset()
        assert (stepwise(model, text()) - logits).abs().max() < 1e-3
        assert traffic.layers()["survivors"].to_list() == counted["survivors"].to_list()


def test_a_selector_that_reads_everything_changes_nothing(captures):
    model, ids = tiny(), text()
    with torch.inference_mode():
        own = model(ids).logits[:, CONTEXT:]
    set_policy(ghostly(model), seated_policy("oracle_topk", captures, ratio=1.0))
    assert (block(model, ids) - own).abs().max() < 2e-5


@pytest.mark.parametrize("delta", [0.3, 0.05, 0.01])
@pytest.mark.parametrize("decider", ["certified", "oracle"])
def test_dropped_mass_is_below_delta_for_every_query(captures, delta, decider, monkeypatch):
    """Against exact softmax, from which keys took part in the output."""
    dropped, eliminated = [], 0
    for capture in captures:
        one = (
            CertifiedMass(nested(capture), delta, SHARES, False)
            if decider == "certified"
            else OracleMass(delta)
        )
        state, some, read_sets = one.start(), call(capture, shared=False), []
        original = combine

        def watch(exact, kept, *rest, original=original, read_sets=read_sets):
            read_sets.append(kept)
            return original(exact, kept, *rest)

        monkeypatch.setattr("ghostkv.runtime.certified.combine", watch)
        monkeypatch.setattr("ghostkv.runtime.seated.combine", watch)
        _, rows = one.attend(state, some)
        monkeypatch.undo()
        for (_, _, _, view), kept in zip(views(some, 64), read_sets, strict=True):
            exact = view.scores().astype(np.float64)
            mass = np.exp(exact - exact.max(axis=-1, keepdims=True))
            mass /= mass.sum(axis=-1, keepdims=True)
            dropped.append(np.where(kept, 0.0, mass).sum(axis=-1).max())
        eliminated += (rows[:, 1] * 2 - rows[:, 3]).sum()
    assert max(dropped) <= delta * (1 + 1e-6)
    assert eliminated > 0 or delta < 0.05


def test_certified_mass_runs_in_the_model_on_both_paths(captures):
    model, ids = ghostly(tiny()), text()
    deciders = {one.layer: CertifiedMass(nested(one), 0.05, SHARES) for one in captures}
    traffic = set_policy(model, Policy("certified", deciders, certificate="dropped mass <= 0.05", **SMALL))
    at_once = block(model, ids)
    counted = traffic.summary()
    assert 0 < counted["certified"] <= 0.05 + 1e-9
    assert counted["violated"] == 0
    assert traffic.layers()["certified"].max() == counted["certified"]
    traffic.reset()
    assert (stepwise(model, ids) - at_once).abs().max() < 1e-3
    assert traffic.summary()["bytes_ratio_gqa"] == pytest.approx(counted["bytes_ratio_gqa"], rel=1e-2)


def test_the_fitted_threshold_spends_the_budget_on_the_text_it_was_fitted_on(captures):
    from ghostkv.runtime.policy import ghost_policy
    from tests.runtime.ghost_fixtures import frames

    layers = [([one], fitted(one)) for one in captures]
    theta = fit_theta(layers, [0.5, 0.6], sinks=2, hot=8, start=CONTEXT)
    model = ghostly(tiny())
    for ratio, least in theta.items():
        traffic = set_policy(model, ghost_policy(frames(captures), least, HEADS, per_key=True, **SMALL))
        block(model, text(seed=2))
        assert traffic.summary()["bytes_ratio_gqa"] == pytest.approx(ratio, abs=0.02)
    with pytest.raises(ConfigError, match="out of reach"):
        fit_theta(layers, [0.01], sinks=2, hot=8, start=CONTEXT)


def test_policies_of_a_config_say_what_they_lack():
    sources, kept = Sources(range(LAYERS), HEADS, 16), {"sinks": 2, "hot": 8}
    full = load_policy(FullPolicy(**kept), sources)
    assert full.decider(0) is None
    assert full.dense_layers == (0, 1)
    oracle = load_policy(OracleMassPolicy(delta=0.02, label="ceiling", **kept), sources)
    assert oracle.name == "ceiling"
    assert "0.02" in oracle.certificate
    for policy, message in (
        (GhostPolicy(theta=0.0, **kept), "no sketch of layer 0"),
        (CertifiedMassPolicy(levels=[2], shares=[0.5], **kept), "role 'codec'"),
        (OracleMassPolicy(), "leaves sinks, hot to the config.*\n.*resolve"),
    ):
        with pytest.raises(ConfigError, match=message):
            load_policy(policy, sources)


def test_observations_of_the_prefill_are_what_attention_was(captures):
    """H2O's accumulated mass is the sum over sampled queries, whatever their rows were folded into."""
    capture = captures[0]
    policy = seated_policy("h2o", captures)
    decider = policy.decider(0)
    state = decider.start()
    decider.observe(state, call(capture, slice(0, CONTEXT)))
    sampled = [
        t for t in range(CONTEXT) if t % seated.OBSERVE_EVERY == 0 or t >= CONTEXT - seated.OBSERVE_LAST
    ]
    for head in range(KV_HEADS):
        keys = capture.keys[head, :CONTEXT].astype(np.float32)
        exact = scores(capture.group_queries(head)[:, :CONTEXT], keys, capture.scale)
        exact[:, np.triu(np.ones((CONTEXT, CONTEXT), bool), 1)] = -np.inf
        mass = np.exp(exact - exact.max(axis=-1, keepdims=True))
        mass /= mass.sum(axis=-1, keepdims=True)
        np.testing.assert_allclose(state.rows[0, head].sum(axis=1), mass[:, sampled].sum(axis=1), rtol=1e-4)
