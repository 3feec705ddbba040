"""The decode stage: what it decides against a plain computation, conservation of bytes, causality, a real store."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from ghostkv import codecs
from ghostkv.attention import cold_range
from ghostkv.captures import CaptureWriter
from ghostkv.config.decode import Decode
from ghostkv.config.frontier import Frontier
from ghostkv.decode_steps import Policy, decide
from ghostkv.decode_store import run_store
from ghostkv.decode_tables import MEASURES, SCHEMAS, Sizes, step_measures
from ghostkv.errors import ConfigError, TableError
from ghostkv.io import read_table, sha256_file
from ghostkv.lifecycle import POLICIES, Capacity, live
from ghostkv.records import CodecSpec, save_codecs
from ghostkv.stages import decode as stage
from tests.stages.conftest import PROOF, make_layer

TOKENS, STEPS, SPEC = 200, 60, CodecSpec("transform_code", 4)
FRONTIER = Frontier(sinks=2, hot=8, top_k=6, headline={"codec": "transform_code", "bytes": 4}).plain()
OPTIONS = Decode(
    bin=16, block_every=4, segment=16, batch=4, warm=0.1, ghost=0.3,
    synthetic={"tokens": 256, "steps": 64, "head_dim": 16, "generators": [{"name": "gaussian"}]},
).plain()  # fmt: skip
PARAMS = OPTIONS | {name: FRONTIER[name] for name in ("sinks", "hot", "top_k", "headline")} | {
    "frontier": FRONTIER, "target_metric": "fer", "target": 0.01, "store_layer": 1, "code": "f",
}  # fmt: skip
POLICY = Policy("relative_topk", 2, 8, 6, 0.9)


def make_trace(layer, window=0, seed=0):
    made = make_layer(f"trace{seed}", layer, tokens=TOKENS, window=window)
    rng, heads = np.random.default_rng(seed), made.heads
    chosen = rng.integers(0, made.queries.shape[1], STEPS)
    noise = rng.normal(size=(heads, STEPS, made.queries.shape[2])).astype(np.float32) * 0.1
    return replace(
        made,
        queries=made.queries[:, chosen] + noise,
        outputs=np.zeros((heads, STEPS, 16), np.float32),
        positions=np.arange(TOKENS - STEPS, TOKENS, dtype=np.int32),
    )


def fitted(capture, kv_head, seed=0):
    queries = capture.group_queries(kv_head).reshape(-1, 16)
    return codecs.make(SPEC.name, SPEC.code_bytes, seed).fit(capture.keys[kv_head], queries)


def decided(capture, theta=(-0.3, -0.2), kv_head=0, codec=None, **options):
    codec = codec or fitted(capture, kv_head)
    records = codec.encode(capture.keys[kv_head])
    return decide(capture, kv_head, codec, records, np.array(theta), POLICY, **options)


def plainly(capture, theta, step):
    """Survivors, lost mass and errors of one step in float64."""
    codec, keys = fitted(capture, 0), capture.keys[0].astype(np.float64)
    values, position = capture.values[0].astype(np.float64), int(capture.positions[step])
    seen = cold_range(capture.positions, capture.first_visible(), 2, 8)
    first, start, stop = (int(part[step]) for part in (seen.first, seen.start, seen.stop))
    decoded, kept, rows = codec.decode(codec.encode(capture.keys[0])), np.zeros(TOKENS, bool), []
    for head, query in enumerate(capture.group_queries(0)[:, step]):
        projected = codec.project(query[None])
        exact = capture.scale * keys @ query.astype(np.float64)
        guess = codec.estimate(projected, decoded, capture.scale)[0].astype(np.float64)
        known = np.where((np.arange(TOKENS) >= start) & (np.arange(TOKENS) < stop), guess, exact)
        tau = np.sort(known[first : position + 1])[-6]
        margin = capture.scale * float(projected.norm[0]) * decoded.radius
        kept[start:stop] |= ((guess - tau) / margin >= theta[head])[start:stop] | ~np.isfinite(
            margin[start:stop]
        )
        rows.append((exact, guess))
    losses, chosen = [], np.flatnonzero(kept)
    read = np.r_[first : min(start, position + 1), chosen, stop : position + 1]
    dropped = np.setdiff1d(np.arange(first, position + 1), read)
    for exact, guess in rows:
        weight, tail = np.exp(exact), np.exp(guess[dropped]).sum()
        whole = (
            weight[first : position + 1] @ values[first : position + 1] / weight[first : position + 1].sum()
        )
        part, mean = weight[read] @ values[read], values[start:stop].mean(axis=0)
        filled, plain = (part + tail * mean) / (weight[read].sum() + tail), part / weight[read].sum()
        errors = [np.linalg.norm(one - whole) / np.linalg.norm(whole) for one in (filled, plain)]
        losses.append([weight[dropped].sum() / weight[first : position + 1].sum(), *errors])
    return chosen, np.array(losses)


@pytest.mark.parametrize("window", [0, 40])
def test_what_is_decided_is_what_a_plain_computation_decides(window):
    capture, theta = make_trace(0, window), (-0.3, -0.2)
    found = decided(capture, theta)
    assert 0 < len(found.reads.keys) < found.reads.visible.cold.sum()
    for step in range(0, STEPS, 7):
        chosen, losses = plainly(capture, theta, step)
        begin = found.reads.ends[step - 1] if step else 0
        assert found.reads.keys[begin : found.reads.ends[step]].tolist() == chosen.tolist()
        np.testing.assert_allclose(found.losses[:, step], losses, rtol=2e-3, atol=2e-5)


def test_nothing_is_lost_when_nothing_is_eliminated():
    found = decided(make_trace(0), (-np.inf, 1.0))
    assert len(found.reads.keys) == found.reads.visible.cold.sum()
    assert np.abs(found.losses).max() < 1e-5


def test_a_step_knows_nothing_of_later_tokens():
    capture, half, codec = make_trace(0), 30, fitted(make_trace(1), 0)
    shorter = replace(
        capture, keys=capture.keys[:, : TOKENS - half], values=capture.values[:, : TOKENS - half],
        queries=capture.queries[:, :-half], positions=capture.positions[:-half],
    )  # fmt: skip
    whole, part = decided(capture, codec=codec), decided(shorter, codec=codec, block=7)
    end = part.reads.ends[-1]
    assert (whole.reads.ends[: STEPS - half] == part.reads.ends).all()
    assert (whole.reads.keys[:end] == part.reads.keys).all()
    np.testing.assert_allclose(whole.reads.leaving[: STEPS - half], part.reads.leaving, rtol=1e-4)
    np.testing.assert_allclose(whole.losses[:, : STEPS - half], part.losses, rtol=1e-2, atol=1e-5)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("window", [0, 40])
def test_bytes_are_conserved(policy, window):
    """What a tier holds changes by what is written to it less what is freed there."""
    reads, sizes = decided(make_trace(0, window)).reads, Sizes(64, 5)
    life = live(reads, policy, Capacity(20, 40, 4, 16), 0.9)
    found = step_measures(life, reads, sizes, stamped=False)
    out = life.flows.sum(axis=2)  # by state that was left
    down = life.flows[:, 2, 3] + life.flows[:, 2, 4]
    gone = life.flows[:, :, 0]
    fast = (life.flows[:, 1, 3] + life.flows[:, 1, 4] + down + gone[:, 1] + gone[:, 2]) * 64
    fast += gone[:, 2:].sum(axis=1) * 5
    slow = (life.flows[:, 2, 4] + life.flows[:, 3, 4] + gone[:, 2] + gone[:, 3]) * 64
    # A token that goes from hot straight to disk never was in slow memory.
    for tier, freed in {"fast": fast, "slow": slow, "disk": gone[:, 2:].sum(axis=1) * 64}.items():
        held, written = found[f"{tier}_held"], found[f"{tier}_written"]
        assert (np.diff(held) == (written - freed)[:-1]).all(), tier
    assert (found["survivors"] == found["hits"] + found["resurrected"]).all()
    read = found["fast_read"] + found["slow_read"] + found["disk_read"]
    assert (read == (found["hot_held"] + found["survivors"]) * 64 + found["cold"] * 5).all()
    assert set(found) == set(MEASURES)
    assert (out.sum(axis=1) >= 0).all()


def test_a_store_gives_back_every_survivor(tmp_path):
    capture = make_trace(0)
    found = [decided(capture, kv_head=kv_head).reads for kv_head in range(2)]
    records = [fitted(capture, kv_head).encode(capture.keys[kv_head]) for kv_head in range(2)]
    rows = pl.DataFrame(run_store(tmp_path / "store", capture, records, found, 4, 16))
    assert rows.height == STEPS
    assert rows["wrong_rows"].sum() == 0
    assert rows["rows"].sum() == sum(len(one.keys) for one in found)
    assert (rows["counted_bytes"] == rows["gathered_bytes"]).all()
    blocks = rows.drop_nulls("block_bytes")
    assert blocks.height == STEPS // 4
    assert (blocks["block_rows_bytes"] == blocks["counted_bytes"]).all()
    assert not (tmp_path / "store").exists()


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trace")
    metadata = {"model": "made", "text": "t", "text_sha256": "0", "fingerprint": "f"}
    layers = [make_trace(0), make_trace(1)]
    with CaptureWriter(folder, 16, 16, metadata) as writer:
        for capture in layers:
            writer.append(capture, PROOF)
    for layer, capture in enumerate(layers):
        save_codecs(
            {(SPEC, head): fitted(capture, head) for head in range(2)}, folder / f"c{layer}", metadata
        )
    points = [
        {"layer": layer, "head": head, "codec": SPEC.name, "code_bytes": 4, "rule": "relative_topk", "method": "calibrated",
         "target_metric": "fer", "target": 0.01, "theta": None if head == 3 else -0.3}
        for layer in range(2) for head in range(4)
    ]  # fmt: skip
    pl.DataFrame(points * 2).write_parquet(folder / "points.parquet")
    return [
        {"trace": str(folder), "codecs": str(folder / f"c{layer}"), "points": str(folder / "points.parquet")}
        for layer in range(2)
    ]


def run(inputs, folder):
    files = {name: [] for name in SCHEMAS}
    for layer, own in enumerate(inputs):
        outputs = {name: str(folder / f"{name}_{layer}.parquet") for name in SCHEMAS}
        stage.measure_layer(own, layer, PARAMS, outputs)
        files = {name: [*files[name], outputs[name]] for name in SCHEMAS}
    outputs = {name: str(folder / f"{name}_synthetic.parquet") for name in SCHEMAS if name != "store"}
    stage.measure_synthetic(PARAMS, outputs)
    files = {name: [*files[name], *([outputs[name]] if name in outputs else [])] for name in SCHEMAS}
    whole = {name: str(folder / f"{name}.parquet") for name in SCHEMAS}
    stage.gather(files, whole)
    return whole


@pytest.fixture(scope="module")
def files(inputs, tmp_path_factory):
    return run(inputs, tmp_path_factory.mktemp("decode"))


def test_tables_cover_sources_heads_and_policies(files):
    spread, losses = read_table(files["spread"]), read_table(files["losses"])
    assert set(spread["source"]) == {"trace", "gaussian"}
    assert set(spread["policy"]) == {*POLICIES, "ceiling"}
    assert spread.filter(pl.col("source") == "trace").select("layer", "kv_head").n_unique() == 4
    assert losses.filter(pl.col("source") == "trace").select("layer", "head").n_unique() == 8
    assert (spread["p01"] <= spread["p50"]).all()
    assert (spread["p99"] <= spread["max"]).all()
    assert read_table(files["store"])["layer"].unique().to_list() == [1]
    assert read_table(files["store"])["wrong_rows"].sum() == 0


def test_steps_add_up_to_the_spread(files):
    steps, spread = read_table(files["steps"]), read_table(files["spread"])
    keys = ["source", "layer", "kv_head", "policy"]
    means = steps.group_by(keys).agg((pl.col("resurrected") * pl.col("steps")).sum() / pl.col("steps").sum())
    both = means.join(spread.filter(pl.col("measure") == "resurrected"), on=keys)
    np.testing.assert_allclose(both["resurrected"], both["mean"], rtol=1e-9)


def test_no_policy_beats_the_ceiling(files):
    hits = read_table(files["spread"]).filter(pl.col("measure") == "hits")
    for _, rows in hits.group_by("source", "layer", "kv_head"):
        best = rows.filter(pl.col("policy") == "ceiling")["mean"][0]
        assert (rows["mean"] <= best + 1e-9).all()


def test_a_head_without_a_threshold_eliminates_nothing(files):
    losses = read_table(files["losses"]).filter(pl.col("source") == "trace", pl.col("measure") == "lost_mass")
    kept = losses.filter(pl.col("head").is_in([2, 3]))  # head 3 reads all, so does the group
    assert (kept["max"] < 1e-5).all()
    assert (losses.filter(pl.col("head") < 2)["max"] > 0).all()


def test_two_runs_are_the_same_to_the_byte(files, inputs, tmp_path):
    again = run(inputs, tmp_path)
    for name in ("steps", "spread", "losses"):  # the store's times are this machine's
        assert sha256_file(again[name]) == sha256_file(files[name])


def test_a_frontier_without_the_threshold_says_what_to_write(inputs, tmp_path):
    with pytest.raises(TableError, match="no calibrated fer point at 0.2"):
        stage.measure_layer(inputs[0], 0, PARAMS | {"target": 0.2}, {})


def test_a_generator_twice_is_refused():
    with pytest.raises(ConfigError, match=r"decode.synthetic.generators names gaussian 2 times"):
        Decode(synthetic={"generators": [{"name": "gaussian"}, {"name": "gaussian"}]})
