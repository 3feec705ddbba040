"""The decode stage: what it decides against a plain computation, conservation of bytes, causality, a real store."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from ghostkv.captures.capture_files import CaptureWriter
from ghostkv.codecs import by_name
from ghostkv.codecs.records import CodecSpec, save_codecs
from ghostkv.config.experiment import load_config
from ghostkv.elimination.attention import cold_range
from ghostkv.elimination.schemas import POINT_SCHEMA
from ghostkv.files.errors import ConfigError, TableError
from ghostkv.files.io import read_table, sha256_file
from ghostkv.files.tables import write_rows
from ghostkv.stages.decode import generated
from ghostkv.stages.decode import layer as stage
from ghostkv.stages.decode.gather import gather
from ghostkv.stages.decode.jobs import DecodeGenerated, DecodeLayer, GatherDecode
from ghostkv.stages.decode.lifecycle import ARCHIVE, POLICIES, Capacity, live
from ghostkv.stages.decode.on_disk import Device, run_store
from ghostkv.stages.decode.schemas import MEASURES, SCHEMAS
from ghostkv.stages.decode.steps import ReadRule, decide
from ghostkv.stages.decode.tables import Sizes, step_measures
from ghostkv.store import GhostStore
from tests.stages.conftest import PROOF, job_of, make_layer

TOKENS, STEPS, SPEC = 200, 60, CodecSpec("transform_code", 4)
OPTIONS = {
    "bin": 16, "block_every": 4, "segment": 16, "batch": 4, "warm": 0.1, "ghost": 0.3, "budgets": [0.02, 0.1, 0.25],
    "synthetic": {"tokens": 256, "steps": 64, "head_dim": 16, "generators": [{"name": "gaussian"}]},
}  # fmt: skip
CONFIG = {
    "decode": OPTIONS,
    "frontier": {"sinks": 2, "hot": 8, "top_k": 6, "headline": {"codec": "transform_code", "bits": 2}},
}
POLICY = ReadRule("relative_topk", 2, 8, 6, 0.9)


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
    return by_name.make(SPEC.name, SPEC.code_bytes, seed).fit(capture.keys[kv_head], queries)


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


def plain_best(capture, step, count):
    """The best cold keys of a step by the largest share that a head's records promise, in float64."""
    codec, keys = fitted(capture, 0), capture.keys[0].astype(np.float64)
    seen = cold_range(capture.positions, capture.first_visible(), 2, 8)
    first, start, stop = (int(part[step]) for part in (seen.first, seen.start, seen.stop))
    decoded, share = codec.decode(codec.encode(capture.keys[0])), []
    for query in capture.group_queries(0)[:, step]:
        known = capture.scale * keys @ query.astype(np.float64)
        known[start:stop] = codec.estimate(codec.project(query[None]), decoded, capture.scale)[0][start:stop]
        share.append(known - np.log(np.exp(known[first : int(capture.positions[step]) + 1]).sum()))
    return np.sort(start + np.argsort(-np.max(share, axis=0)[start:stop], kind="stable")[:count])


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
    found = step_measures(life, reads, sizes, "age")  # which keeps nothing of a token
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


def test_a_policy_pays_for_what_it_keeps_of_a_token():
    reads, sizes = decided(make_trace(0)).reads, Sizes(64, 5)
    life = live(reads, "attention", Capacity(20, 40, 4, 16), 0.9)
    age, lru, attention = (step_measures(life, reads, sizes, name) for name in POLICIES)
    assert (lru["fast_held"] - age["fast_held"] == 4 * age["cold"]).all()
    # The step and the accumulator of a cold token; of a hot one the accumulator, as every step reads it.
    assert (attention["fast_held"] - age["fast_held"] == 8 * age["cold"] + 4 * age["hot_held"]).all()
    left_hot = life.flows[:, 1, 2:].sum(axis=1)
    assert (lru["fast_written"] - age["fast_written"] == 4 * (age["survivors"] + left_hot)).all()
    kept = 8 * (age["survivors"] + left_hot) + 4 * age["hot_held"]
    assert (attention["fast_written"] - age["fast_written"] == kept).all()
    for name in set(MEASURES) - {"fast_held", "fast_written"}:
        assert (age[name] == attention[name]).all(), name


STORE_EVERY = 4


def stored(folder, **options):
    """One layer through a store whose disk is the archive of LRU with few slots, and what LRU had there."""
    capture = make_trace(0)
    found = [decided(capture, kv_head=kv_head).reads for kv_head in range(2)]
    records = [fitted(capture, kv_head).encode(capture.keys[kv_head]) for kv_head in range(2)]
    lives = [live(one, "lru", Capacity(10, 20, 4, 16), 0.9) for one in found]
    archived = [life.origin == ARCHIVE for life in lives]
    rows = pl.DataFrame(
        run_store(folder / "store", capture, records, found, archived, STORE_EVERY, 16, **options),
        infer_schema_length=None,
    )
    assert not (folder / "store").exists()
    return rows, found, lives


def test_a_store_gives_back_every_survivor(tmp_path):
    rows, found, lives = stored(tmp_path)
    assert rows.height == STEPS
    assert rows["wrong_rows"].sum() == 0
    assert rows["rows"].sum() == sum(len(one.keys) for one in found)
    on_disk = sum(life.read_from(one.ends)[:, ARCHIVE] for life, one in zip(lives, found, strict=True))
    asked = rows.drop_nulls("archived_rows")
    assert asked["step"].to_list() == list(range(0, STEPS, STORE_EVERY))
    assert asked["archived_rows"].to_list() == on_disk[::STORE_EVERY].tolist()
    assert asked["archived_rows"].sum() > 0
    assert asked["archived_wrong_rows"].sum() == 0
    assert (asked["archived_bytes"] == asked["archived_rows"] * 64).all()
    counted = asked.drop_nulls("counted_bytes")["counted_bytes"]
    assert (counted % 4096 == 0).all()
    assert (counted > 0).all()


def on_a_device(folder):
    (folder / "probe").write_bytes(bytes(4096))
    return Device.under(folder / "probe") == Device(direct=True, accounted=True)


def test_the_kernel_reads_what_was_counted_and_no_more(tmp_path):
    asked = stored(tmp_path)[0].filter(pl.col("archived_rows") > 0)
    if not on_a_device(tmp_path):
        assert asked["read_bytes"].null_count() == asked.height
        pytest.skip("this file system has no O_DIRECT, or the kernel keeps no account of it")
    assert asked["direct"].all()
    # A page of this process that the kernel brought back meanwhile counts as well, so not quite every step must agree.
    assert (asked["read_bytes"] == asked["counted_bytes"]).mean() > 0.8
    assert asked["read_bytes"].sum() >= asked["counted_bytes"].sum()


def test_a_store_that_reads_more_than_it_should_is_found_out(tmp_path, monkeypatch):
    if not on_a_device(tmp_path):
        pytest.skip("this file system has no O_DIRECT, or the kernel keeps no account of it")
    read = GhostStore.read
    monkeypatch.setattr(GhostStore, "read", lambda *args, **named: read(*args, **named | {"gap": 64}))
    asked = stored(tmp_path)[0].filter(pl.col("archived_rows") > 0)
    assert asked["archived_wrong_rows"].sum() == 0
    assert (asked["read_bytes"] > asked["counted_bytes"]).any()


def test_an_archive_that_gives_other_bits_is_found_out(tmp_path, monkeypatch):
    def flipped(store, method):
        def read(*args, **named):
            found = method(store, *args, **named)
            keys = found.keys if hasattr(found, "keys") else found[0]
            keys.view(np.uint16)[0, 3] ^= 1
            return found

        return read

    read, gather = GhostStore.read, GhostStore.gather
    monkeypatch.setattr(
        GhostStore, "read", lambda store, *args, **named: flipped(store, read)(*args, **named)
    )
    monkeypatch.setattr(
        GhostStore, "gather", lambda store, *args, **named: flipped(store, gather)(*args, **named)
    )
    rows = stored(tmp_path)[0]
    assert (rows["wrong_rows"] == (rows["rows"] > 0)).all()
    assert (rows.drop_nulls("direct")["archived_wrong_rows"] == 1).all()


def test_a_disk_without_direct_reads_is_read_through_the_map(tmp_path, monkeypatch):
    opened = os.open

    def refuse(path, flags, *rest, **named):
        if flags & os.O_DIRECT:
            raise OSError(22, "Invalid argument")
        return opened(path, flags, *rest, **named)

    monkeypatch.setattr(os, "open", refuse)
    asked = stored(tmp_path)[0].filter(pl.col("archived_rows") > 0)
    assert not asked["direct"].any()
    assert asked["archived_wrong_rows"].sum() == 0
    assert (asked["counted_bytes"] > 0).all()
    assert asked["read_bytes"].null_count() == asked.height


def test_a_kernel_that_keeps_no_account_is_no_agreement(tmp_path, monkeypatch):
    monkeypatch.setattr("ghostkv.stages.decode.on_disk.bytes_read", lambda: 0)
    asked = stored(tmp_path)[0].filter(pl.col("archived_rows") > 0)
    assert asked["archived_wrong_rows"].sum() == 0
    assert asked["read_bytes"].null_count() == asked.height


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
    write_rows(points * 2, folder / "points.parquet", POINT_SCHEMA, {})
    return [
        {
            "layers": str(folder / "layers.parquet"),
            "codecs": str(folder / f"c{layer}"),
            "points": str(folder / "points.parquet"),
        }
        for layer in range(2)
    ]


def run(inputs, folder):
    files = {name: [] for name in SCHEMAS}
    for layer, own in enumerate(inputs):
        outputs = {name: str(folder / f"{name}_{layer}.parquet") for name in SCHEMAS}
        stage.measure_layer(job_of(DecodeLayer, CONFIG, str(layer)), own, outputs)
        files = {name: [*files[name], outputs[name]] for name in SCHEMAS}
    outputs = {name: str(folder / f"{name}_synthetic.parquet") for name in DecodeGenerated.tables}
    generated.measure_generated(job_of(DecodeGenerated, CONFIG), {}, outputs)
    files = {name: [*files[name], *([outputs[name]] if name in outputs else [])] for name in SCHEMAS}
    whole = {name: str(folder / f"{name}.parquet") for name in SCHEMAS}
    gather(GatherDecode(), files, whole)
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
    assert read_table(files["store"])["policy"].unique().to_list() == ["lru"]


def test_steps_add_up_to_the_spread(files):
    steps, spread = read_table(files["steps"]), read_table(files["spread"])
    keys = ["source", "layer", "kv_head", "policy"]
    means = steps.group_by(keys).agg((pl.col("resurrected") * pl.col("steps")).sum() / pl.col("steps").sum())
    both = means.join(spread.filter(pl.col("measure") == "resurrected"), on=keys)
    np.testing.assert_allclose(both["resurrected"], both["mean"], rtol=1e-9)


def test_losses_along_the_steps_add_up_to_those_of_the_decode(files):
    bins, losses = read_table(files["loss_steps"]), read_table(files["losses"])
    keys = ["source", "layer", "head", "measure"]
    found = bins.group_by(keys).agg(
        ((pl.col("mean") * pl.col("steps")).sum() / pl.col("steps").sum()).alias("of_bins"),
        pl.col("max").max().alias("worst"),
        pl.col("steps").sum().alias("lived"),
    )
    both = losses.join(found, on=keys)
    assert both.height == losses.height
    np.testing.assert_allclose(both["of_bins"], both["mean"], rtol=1e-9)
    assert (both["worst"] == both["max"]).all()
    assert (both["lived"] == both["steps"]).all()
    assert (bins["mean"] <= bins["p99"] + 1e-12).all()
    assert (bins["p99"] <= bins["max"] + 1e-12).all()


def test_budgets_are_swept_on_one_head_of_each_layer_and_another_in_the_next(files):
    budgets = read_table(files["budgets"])
    heads = budgets.select("source", "layer", "kv_head").unique().sort("source", "layer")
    assert heads.rows() == [("gaussian", 0, 0), ("trace", 0, 0), ("trace", 1, 1)]
    assert budgets.height == 3 * 3 * (len(POLICIES) + 1)
    assert set(budgets["budget"]) == {0.02, 0.1, 0.25}
    assert (budgets["budget_bytes"] == budgets["slots"] * 64).all()
    ceilings = budgets.filter(pl.col("policy") == "ceiling")
    assert ceilings["re_resurrected"].null_count() == ceilings["slow_read"].null_count() == ceilings.height
    lived = budgets.filter(pl.col("policy") != "ceiling")
    np.testing.assert_allclose(lived["outside_read"], lived["slow_read"] + lived["disk_read"])


def test_at_any_budget_the_ceiling_is_above_and_more_room_serves_more(files):
    budgets = read_table(files["budgets"])
    for _, rows in budgets.group_by("source", "layer", "kv_head", "budget"):
        best = rows.filter(pl.col("policy") == "ceiling").row(0, named=True)
        assert (rows["hits"] <= best["hits"] + 1e-9).all()
        assert (rows["outside_read"] >= best["outside_read"] - 1e-9).all()
        assert (rows["disk_read"] >= best["disk_read"] - 1e-9).all()
    for _, rows in budgets.filter(pl.col("policy") == "ceiling").group_by("source", "layer", "kv_head"):
        assert rows.sort("budget")["hits"].is_sorted()


def test_the_budget_of_the_decode_itself_is_one_of_the_sweep(files):
    spread, budgets = read_table(files["spread"]), read_table(files["budgets"])
    own, keys = budgets.filter(pl.col("budget") == OPTIONS["warm"]), ["source", "layer", "kv_head", "policy"]
    for measure in ("hits", "resurrected", "re_resurrected", "slow_read"):
        both = own.join(spread.filter(pl.col("measure") == measure), on=keys)
        assert both.height in (own.height, own.filter(pl.col("policy") != "ceiling").height)
        np.testing.assert_allclose(both[measure], both["mean"], rtol=1e-12)


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
    again = run(inputs, tmp_path / Path(files["steps"]).parent.name)
    for name in set(SCHEMAS) - {"store"}:  # the store's times are this machine's
        assert sha256_file(again[name]) == sha256_file(files[name])


def test_progress_ends_where_it_said_it_would(inputs, tmp_path, monkeypatch):
    bars, progress = [], stage.progress
    for module in (stage, generated):
        monkeypatch.setattr(module, "progress", lambda **named: bars.append(progress(**named)) or bars[-1])
    outputs = {name: str(tmp_path / f"{name}.parquet") for name in SCHEMAS}
    stage.measure_layer(job_of(DecodeLayer, CONFIG, "1"), inputs[1], outputs)
    own = {name: outputs[name] for name in DecodeGenerated.tables}
    generated.measure_generated(job_of(DecodeGenerated, CONFIG), {}, own)
    assert len(bars) == 2
    for bar in bars:
        assert bar.n == bar.total > STEPS


def test_a_sweep_of_the_decodes_own_budget_alone_or_of_none_is_that_budget(inputs, tmp_path):
    for number, budgets in enumerate(([], [OPTIONS["warm"]])):
        outputs = {name: str(tmp_path / f"{name}_{number}.parquet") for name in SCHEMAS}
        job = job_of(DecodeLayer, CONFIG, "0", budgets=budgets, budget_heads=9)
        stage.measure_layer(job, inputs[0], outputs)
        found = read_table(outputs["budgets"])
        assert (
            found.select("kv_head", "policy", "budget").n_unique() == found.height == 2 * (len(POLICIES) + 1)
        )
        assert set(found["budget"]) == {OPTIONS["warm"]}


def test_a_frontier_without_the_threshold_says_what_to_write(inputs, tmp_path):
    with pytest.raises(TableError, match="no calibrated fer point at 0.2"):
        stage.measure_layer(job_of(DecodeLayer, CONFIG, "0", target=0.2), inputs[0], {})


def test_a_generator_twice_is_refused():
    with pytest.raises(ConfigError, match=r"decode.synthetic.generators is[\s\S]*not gaussian twice"):
        load_config({"decode": {"synthetic": {"generators": [{"name": "gaussian"}, {"name": "gaussian"}]}}})


def test_no_generator_at_all_is_refused_and_says_what_to_write():
    with pytest.raises(
        ConfigError, match=r"decode.synthetic.generators is \[\].*\n.*generators: \[\{name: gaussian\}"
    ):
        load_config({"decode": {"synthetic": {"generators": []}}})
