"""The historical protocol is reproduced with its faults, and each knob does what it says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ghostkv.captures.capture_files import LayerCapture
from ghostkv.codecs.by_name import make
from ghostkv.files.errors import ConfigError, TextError
from ghostkv.stages.historical.jobs import HistoricalRun
from ghostkv.stages.historical.protocol import (
    CORRECT,
    HISTORICAL,
    KNOBS,
    REASONS,
    Constants,
    ProtocolOutcome,
    at_thetas,
    best,
    follow,
    pool,
)
from ghostkv.stages.historical.run import cut_prompts, run
from ghostkv.stages.historical.schemas import COMPARISON_SCHEMA, SWEEP_SCHEMA
from ghostkv.stages.historical.tables import ladder, protocols
from ghostkv.stages.historical.view import gaussian_projection, see
from tests.stages.conftest import write_texts

CONSTANTS = Constants(dims=8, epsilon=0.05, sigma=0.05, top_k=8, sinks=2, hot=8)
WIDTH = 32


def layer(tokens=64, queries=4, heads=4, kv_heads=2, seed=0, window=0) -> LayerCapture:
    rng = np.random.default_rng(seed)
    return LayerCapture(
        layer=0,
        keys=(rng.normal(size=(kv_heads, tokens, WIDTH)) * rng.gamma(1.0, 2.0, (1, 1, WIDTH))).astype(
            np.float16
        ),
        values=None,
        queries=rng.normal(size=(heads, queries, WIDTH)).astype(np.float32),
        outputs=None,
        positions=np.arange(tokens - queries, tokens, dtype=np.int32),
        scale=WIDTH**-0.5,
        window=window,
    )


def view_of(capture, seed=0):
    codec = [make("transform_code", 8).fit(keys, capture.queries.reshape(-1, WIDTH)) for keys in capture.keys]
    return see(capture, {"gaussian": gaussian_projection(8, WIDTH, seed)}, {"transform_code": codec})


def test_every_product_is_what_its_name_says():
    capture = layer()
    view = view_of(capture)
    p = gaussian_projection(8, WIDTH, 0).astype(np.float64)
    keys = capture.keys.astype(np.float64)
    for head, query in [(0, 0), (1, 3), (3, 2)]:
        q, k = capture.queries[head, query].astype(np.float64), keys[head // 2]
        np.testing.assert_allclose(view.exact[head, query], k @ q, rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(
            view.estimates["gaussian"][head, query], (k @ p.T) @ (p @ q), rtol=1e-3, atol=1e-2
        )
        rho = np.linalg.norm(k - (k @ p.T) @ p, axis=1)
        np.testing.assert_allclose(view.margins["gaussian"][head, query], np.linalg.norm(q) * rho, rtol=1e-3)
        anchor = k.reshape(-1, 8, WIDTH).mean(axis=1)
        np.testing.assert_allclose(view.anchors[head, query], np.repeat(anchor @ q, 8), rtol=1e-3, atol=1e-2)


@given(
    seed=st.integers(0, 10_000),
    tokens=st.integers(20, 90),
    codec=st.sampled_from(["gaussian", "transform_code"]),
)
@settings(max_examples=40, deadline=None)
def test_with_its_faults_put_right_the_upper_bound_is_never_exceeded(seed, tokens, codec):
    view = view_of(layer(tokens=tokens, seed=seed), seed)
    sound = replace(HISTORICAL, model_scale=True, query_norm=True, measured_margin=True)
    assert follow(view, sound, CONSTANTS, codec).violations.sum() == 0


@pytest.mark.parametrize("fault", ["query_norm", "measured_margin"])
def test_with_either_of_these_faults_it_is_exceeded(fault):
    view = view_of(layer())
    sound = replace(HISTORICAL, model_scale=True, query_norm=True, measured_margin=True)
    assert follow(view, sound.switched(fault), CONSTANTS, "gaussian").violations.sum() > 0


def test_the_historical_scale_inflates_estimates():
    view = view_of(layer())
    far = replace(CONSTANTS, epsilon=0.0, sigma=0.0)
    without_cluster = replace(view, radius=np.full_like(view.radius, np.inf))
    wrong = follow(without_cluster, replace(HISTORICAL, query_norm=True), far, "gaussian").cold
    right = follow(
        without_cluster, replace(HISTORICAL, query_norm=True, model_scale=True), far, "gaussian"
    ).cold
    np.testing.assert_allclose(wrong, right * (WIDTH / 8) ** 0.5, rtol=1e-4)


def test_a_relative_rule_does_not_care_how_high_a_querys_scores_lie():
    view = view_of(layer())
    # 0, 500, 1000, 1500: each query's scores as a whole, which changes no query's ranking.
    offset = (500.0 * np.arange(4))[:, None]
    shifted = replace(
        view,
        exact=view.exact + offset,
        anchors=view.anchors + offset,
        estimates={name: estimate + offset for name, estimate in view.estimates.items()},
        _known={},
    )
    protocol = replace(CORRECT, keep_recent=False)
    relative = [best(follow(v, protocol, CONSTANTS, "transform_code"), 0.05)[0] for v in (view, shifted)]
    np.testing.assert_allclose(*relative, atol=0.02)
    absolute = replace(protocol, relative=False)
    one, other = (best(follow(v, absolute, CONSTANTS, "transform_code"), 0.05)[0] for v in (view, shifted))
    assert (other < one - 0.1).all()


def test_the_theta_grid_agrees_with_counting_by_hand():
    outcome = pool([follow(view_of(layer(seed=s)), HISTORICAL, CONSTANTS, "gaussian") for s in range(3)])
    thetas = np.linspace(0.05, 0.95, 19)
    elimination, fer = at_thetas(outcome, thetas)
    for number, theta in enumerate(thetas):
        np.testing.assert_allclose(elimination[:, number], (outcome.cold < theta).mean(axis=1))
        np.testing.assert_allclose(fer[:, number], (outcome.relevant < theta).mean(axis=1))


@given(seed=st.integers(0, 10_000), target=st.floats(0.0, 0.5), kept=st.integers(0, 40))
@settings(max_examples=60)
def test_the_best_theta_keeps_its_target_and_no_other_theta_does_better(seed, target, kept):
    rng = np.random.default_rng(seed)
    relevant = rng.integers(0, 30, (2, 40)).astype(float)
    relevant[:, :kept] = np.inf
    cold = np.concatenate([relevant[:, kept:], rng.integers(-30, 20, (2, 100))], axis=1)
    outcome = ProtocolOutcome(relevant, cold, np.zeros(2), np.zeros((2, 2)), 0.0)
    eliminated, lost = best(outcome, target)
    assert (lost <= target).all()
    for theta in [*np.arange(-31, 32), np.inf]:
        allowed = (relevant < theta).mean(axis=1) <= target
        assert (~allowed | ((cold < theta).mean(axis=1) <= eliminated + 1e-12)).all()


def test_an_oracle_on_short_prompts_eliminates_less_than_half():
    view = view_of(layer(tokens=60))
    outcome = follow(view, HISTORICAL, replace(CONSTANTS, top_k=32), "gaussian")
    assert outcome.oracle == pytest.approx(1 - 32 / (view.positions + 1).mean(), abs=1e-3)
    assert outcome.oracle < 0.48


def test_kept_keys_are_neither_cold_nor_lost():
    view = view_of(layer())
    outcome = follow(view, replace(HISTORICAL, keep_recent=True), replace(CONSTANTS, top_k=62), "gaussian")
    assert outcome.cold.shape[1] == (view.positions + 1 - 2 - 8).sum()
    assert np.isinf(outcome.relevant).any(axis=1).all()
    nothing = follow(view, replace(HISTORICAL, keep_recent=True), replace(CONSTANTS, hot=100), "gaussian")
    assert nothing.cold.shape[1] == 0
    assert best(nothing, 0.05)[0].tolist() == [0.0] * 4


def test_keys_outside_a_sliding_window_play_no_part():
    view = view_of(layer(window=16))
    assert (view.visible.sum(axis=1) == 16).all()
    outcome = follow(view, HISTORICAL, CONSTANTS, "gaussian")
    assert outcome.cold.shape[1] == 16 * 4
    assert (np.take_along_axis(np.broadcast_to(view.visible, view.exact.shape), view.top(8), axis=-1)).all()


def test_uncentred_rank_correlation_calls_noise_a_success():
    rng = np.random.default_rng(0)
    view = view_of(layer(tokens=512, queries=8))
    noise = replace(view, estimates={"noise": rng.normal(size=view.exact.shape)}, _known={})
    centred, uncentred = noise.rank_correlations("noise").mean(axis=1)
    assert abs(centred) < 0.05
    assert uncentred == pytest.approx(0.75, abs=0.02)


def test_the_ladder_leads_from_the_historical_protocol_to_the_corrected_one():
    steps = ladder()
    assert steps[0] == ("none", HISTORICAL)
    assert steps[-1][1] == CORRECT
    assert [knob for knob, _ in steps[1:]] == list(KNOBS)
    assert set(REASONS) == set(KNOBS)
    assert len(set(protocols())) == len(protocols())


def test_prompts_differ_and_have_the_lengths_asked_for():
    ids = {"a": range(1000), "b": range(5000, 5400)}
    prompts = list(cut_prompts(ids, [54, 60, 66, 73], 8))
    assert [len(prompt) for prompt in prompts] == [54, 60, 66, 73] * 2
    assert len({tuple(prompt) for prompt in prompts}) == 8
    assert sum(prompt[0] >= 5000 for prompt in prompts) == 4
    with pytest.raises(TextError, match="'b' has 400 tokens.*prompts of 500"):
        list(cut_prompts(ids, [54, 500], 2))


# The whole stage, on a tiny model.

BANDS = [{"start": 64, "stop": 256, "count": 8}]
PARAMS = {
    "dimensions": [8, 16],
    "epsilon": 0.05,
    "sigma": 0.05,
    "thetas": {"start": 0.05, "stop": 0.95, "count": 19},
    "prompt_tokens": [54, 73],
    "prompts": 4,
    "top_k": 32,
    "passage_tokens": 128,
    "long_queries": 4,
    "sinks": 4,
    "hot": 64,
    "fer": 0.05,
    "elimination": 0.30,
    "seed": 0,
    "layers": [0, 1],
    "dtype": "float32",
    "device": "cpu",
    "code": "abc",
}


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def place(request, tmp_path_factory) -> Path:
    pytest.importorskip("torch")
    from ghostkv.stages.capture.jobs import CaptureText
    from ghostkv.stages.capture.text import capture_text
    from ghostkv.stages.model.fetch import fetch_model
    from ghostkv.stages.model.jobs import FetchModel

    folder = tmp_path_factory.mktemp(request.param)
    entry = {"source": "random", "architecture": request.param, "layers": 2, "heads": 4, "head_dim": 16}
    entry |= {"kv_heads": 2 if request.param == "llama" else 4, "max_context": 512, "seed": 0}
    job = FetchModel.read({"name": "tiny", "entry": entry})
    fetch_model(job, {}, {"manifest": str(folder / "tiny" / "manifest.json")})
    rng = np.random.default_rng(0)
    words = ["ghost", "record", "key", "query", "cold", "sink", "head", "layer", "bound", "margin"]
    rows = [
        {
            "text": f"a_{role}_0",
            "domain": "a",
            "role": role,
            "content": " ".join(rng.choice(words, 120)),
        }
        for role in ("codec", "held_out")
    ]
    write_texts(rows, folder / "texts.parquet")
    params = {"tokens": 256, "layers": [0, 1], "query_bands": BANDS, "tolerance": 1e-3, "seed": 0}
    params |= {"dtype": "float32", "device": "cpu", "chunk": None, "cache_dtype": "float16"}
    for row in rows:
        outputs = {
            name: str(folder / row["text"] / f"{name}.parquet") for name in ("kv", "queries", "layers")
        }
        capture_text(CaptureText.read(params | {"text": row["text"]}), inputs(folder), outputs)
    return folder


def inputs(place: Path) -> dict[str, str]:
    return {"manifest": str(place / "tiny" / "manifest.json"), "texts": str(place / "texts.parquet")}


def captures(place: Path) -> list[dict[str, str]]:
    return [
        {"text": f"a_{role}_0", "domain": "a", "role": role, "folder": str(place / f"a_{role}_0")}
        for role in ("codec", "held_out")
    ]


def write(place: Path, out: Path, **changes) -> dict[str, pl.DataFrame]:
    outputs = {name: str(out / f"{name}.parquet") for name in ("sweep", "knobs", "ablation")}
    run(HistoricalRun.read(PARAMS | {"captures": captures(place)} | changes), inputs(place), outputs)
    return {name: pl.read_parquet(path) for name, path in outputs.items()}


def test_the_stage_writes_its_three_tables(place, tmp_path):
    tables = write(place, tmp_path)
    assert tables["sweep"].columns == SWEEP_SCHEMA.names
    assert tables["sweep"].height == 2 * 4 * 2 * 19
    for name, height in (("knobs", 2 * (1 + len(KNOBS))), ("ablation", 1 + len(KNOBS))):
        assert tables[name].columns == COMPARISON_SCHEMA.names
        assert tables[name].height == height
    start, *_, end = tables["ablation"].iter_rows(named=True)
    assert start["relevant_agreement"] < 1 == end["relevant_agreement"]
    assert end["violation_rate"] == 0 < start["violation_rate"]
    assert start["oracle_elimination"] < 0.5
    assert end["oracle_elimination"] > start["oracle_elimination"]
    assert tables["ablation"]["fault"].to_list()[1:] == [REASONS[knob][0] for knob in KNOBS]
    same = [column for column in COMPARISON_SCHEMA.names if column not in ("direction", "step", "knob")]
    historical = tables["knobs"].filter(knob="none", direction="from_historical").select(same)
    assert historical.equals(tables["ablation"].filter(step=0).select(same))


def test_the_same_run_twice_gives_the_same_bytes(place, tmp_path):
    folders = [tmp_path / run / "historical" for run in "ab"]
    for folder in folders:
        write(place, folder)
    for name in ("sweep.parquet", "knobs.parquet", "ablation.parquet"):
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes()


def test_rebuilt_queries_are_projections_of_the_raw_hidden_state(place):
    torch = pytest.importorskip("torch")
    from ghostkv.models.load import load_model
    from ghostkv.models.rebuild import rebuilt_and_true

    model = load_model(place / "tiny")
    ids, positions = list(range(20, 60)), np.array([10, 39])
    pairs = rebuilt_and_true(model, ids, positions, [0, 1])
    with torch.inference_mode():
        states = model.base_model(
            torch.tensor([ids]), output_hidden_states=True, use_cache=False
        ).hidden_states
        for layer, (rebuilt, true) in pairs.items():
            raw = states[layer]
            if model.config.model_type == "gpt2":
                query, key, _ = model.transformer.h[layer].attn.c_attn(raw).split(64, dim=-1)
            else:
                attention = model.model.layers[layer].self_attn
                query, key = attention.q_proj(raw), attention.k_proj(raw)
            query, key = (x[0].unflatten(-1, (-1, 16)).transpose(0, 1).numpy() for x in (query, key))
            np.testing.assert_allclose(rebuilt.queries, query[:, positions], rtol=1e-4, atol=1e-4)
            np.testing.assert_allclose(rebuilt.keys, key, rtol=1e-4, atol=1e-4)
            assert np.abs(true.keys - rebuilt.keys).max() > 0.1


def test_true_queries_and_keys_are_those_of_a_capture(place):
    from ghostkv.captures.capture_files import read_layer
    from ghostkv.models.load import load_model
    from ghostkv.models.rebuild import rebuilt_and_true
    from ghostkv.models.tokenizer import load_tokenizer

    content = pl.read_parquet(place / "texts.parquet").filter(text="a_held_out_0")["content"][0]
    ids = load_tokenizer(place / "tiny").first(content, 256)
    capture = read_layer(place / "a_held_out_0", 1)
    _, true = rebuilt_and_true(load_model(place / "tiny"), ids, capture.positions, [1])[1]
    np.testing.assert_allclose(true.queries, capture.queries, rtol=1e-2, atol=1e-2)
    np.testing.assert_allclose(true.keys, capture.keys, rtol=1e-2, atol=1e-2)


def test_a_missing_role_is_refused(tmp_path):
    alone = [{"text": "a", "domain": "a", "role": "held_out", "folder": "f"}]
    with pytest.raises(ConfigError, match="role codec and one of role held_out"):
        run(HistoricalRun.read(PARAMS | {"captures": alone}), inputs(tmp_path), {})
