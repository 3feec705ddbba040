"""Frontier: every number in the tables equals one computed by hand, and nothing leaks from held-out text."""

import numpy as np
import polars as pl
import pytest

from ghostkv.captures.capture_files import read_layer
from ghostkv.codecs.records import CodecSpec, load_codecs, read_records
from ghostkv.files.errors import ConfigError
from ghostkv.files.io import read_table, sha256_file
from ghostkv.stages.frontier.gather import gather
from ghostkv.stages.frontier.heads import summarise_heads
from ghostkv.stages.frontier.jobs import GatherFrontier, SummariseHeads, SweepLayer
from ghostkv.stages.frontier.layer import sweep_layer
from tests.stages.conftest import make_sketch

CODECS = [CodecSpec("gaussian", 4), CodecSpec("transform_code", 4)]
SINKS, HOT, TOP_K, START = 2, 8, 6, 150
PARAMS = {
    "codecs": CODECS,
    "query_bands": [{"start": 40, "stop": 150, "count": 10}, {"start": 150, "stop": 300, "count": 14}],
    "sinks": SINKS,
    "hot": HOT,
    "top_k": TOP_K,
    "headline_start": START,
    "grids": {
        "absolute": {"start": -20.0, "stop": 20.0, "count": 81},
        "relative_topk": {"start": -2.0, "stop": 0.5, "count": 101},
        "relative_lse": {"start": -16.0, "stop": 0.0, "count": 81},
    },
    "targets": {"fer": [0.2], "dropped_mass": [0.1, 0.2]},
    "safe": {"fer": 0.2, "elimination": 0.3, "margin": 0.8},
    "headline": CODECS[1],
    "rule": "relative_topk",
    "code": "f",
}
TABLES = SweepLayer.tables


def run(captures, folder, layers=(0, 1), params=PARAMS):
    for layer in layers:
        sketch = make_sketch(captures, layer, CODECS, folder)
        outputs = {name: str(folder / f"{name}_{layer}.parquet") for name in TABLES}
        sweep_layer(SweepLayer.read(params | {"captures": captures, "layer": layer}), sketch, outputs)
    files = {name: [str(folder / f"{name}_{layer}.parquet") for layer in layers] for name in TABLES}
    whole = {name: str(folder / f"{name}.parquet") for name in (*TABLES, "safe_points", "layer_head")}
    gather(GatherFrontier(), files, whole)
    summarise_heads(SummariseHeads.read({"safe": params["safe"]}), whole, whole)
    return {name: read_table(path) for name, path in whole.items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("frontier")


@pytest.fixture(scope="module")
def tables(captures, folder):
    return run(captures, folder)


def by_hand(captures, folder, layer, head, theta):
    """One head of transform_code under relative_topk on held-out text, in plain NumPy and float64."""
    capture = read_layer(captures[2]["folder"], layer)
    kv_head = head // capture.group
    chosen = CODECS
    codec = load_codecs(folder / f"codecs_{layer}", chosen)[chosen[1], kv_head]
    decoded = codec.decode(
        read_records(folder / f"records_{layer}", captures[2]["text"], chosen)[chosen[1]][kv_head]
    )
    keys, values = capture.keys[kv_head].astype(np.float64), capture.values[kv_head].astype(np.float64)
    rows = []
    for position, query in zip(capture.positions, capture.queries[head].astype(np.float64), strict=True):
        if position < START:
            continue
        visible = position + 1
        score = keys[:visible] @ query * capture.scale
        projected = codec.project(query[None])
        estimate = codec.estimate(projected, decoded, capture.scale)[0, :visible].astype(np.float64)
        margin = capture.scale * projected.norm[0] * decoded.radius[:visible]
        cold = np.zeros(visible, bool)
        cold[SINKS : visible - HOT] = True
        known = np.where(cold, estimate, score)
        tau = np.sort(known)[-TOP_K]
        # A record beyond its codec's range has an infinite margin and says nothing: its key is always read.
        eliminated = cold & np.isfinite(margin) & ((estimate - tau) / margin < theta)
        mass = np.exp(score - score.max())
        mass /= mass.sum()
        top = np.argsort(-score)[:TOP_K]
        output = mass @ values[:visible]
        kept = np.where(eliminated, 0, mass)
        sparse = kept @ values[:visible] / kept.sum()
        rows.append(
            {
                "elimination": eliminated.sum() / cold.sum(),
                "fer": eliminated[top].mean(),
                "dropped_mass_mean": mass[eliminated].sum(),
                "output_error_mean": np.linalg.norm(output - sparse) / np.linalg.norm(output),
                "bytes_ratio": (cold.sum() * 5 + (visible - eliminated.sum()) * 64) / (visible * 64),
            }
        )
    return {name: np.mean([row[name] for row in rows]) for name in rows[0]}


def test_points_equal_a_computation_by_hand(captures, folder, tables):
    chosen = tables["points"].filter(
        (pl.col("codec") == "transform_code")
        & (pl.col("rule") == "relative_topk")
        & (pl.col("method") == "calibrated")
        & (pl.col("target_metric") == "dropped_mass")
    )
    assert chosen.height == 2 * 4 * 2
    assert chosen["theta"].null_count() < chosen.height
    for row in chosen.iter_rows(named=True):
        theta = -np.inf if row["theta"] is None else row["theta"]
        expected = by_hand(captures, folder, row["layer"], row["head"], theta)
        for name, value in expected.items():
            assert row[name] == pytest.approx(value, abs=2e-3), (row["layer"], row["head"], name)


def test_thresholds_ignore_held_out_text(captures, tables, tmp_path):
    # Another held-out text changes what is reported, not what was chosen.
    swapped = [*captures[:2], captures[2] | {"folder": captures[0]["folder"]}]
    other = run(swapped, tmp_path)
    keys = ["layer", "head", "codec", "rule", "target_metric", "target", "method"]
    for method in ("calibrated", "safe"):
        mine, theirs = (
            t["points"].filter(pl.col("method") == method).select(*keys, "theta").sort(keys)
            for t in (tables, other)
        )
        assert mine.equals(theirs)
    assert not tables["points"].equals(other["points"])


def test_elimination_and_losses_grow_with_theta(tables):
    ordered = tables["sweep"].sort("layer", "head", "codec", "rule", "text", "theta")
    keys = ["layer", "head", "codec", "rule", "text"]
    for name in ("elimination", "fer", "dropped_mass_mean", "lost_95", "lost_99"):
        steps = ordered.with_columns(pl.col(name).diff().over(keys).alias("step"))["step"].drop_nulls()
        assert steps.min() >= -1e-6, name
    steps = ordered.with_columns(pl.col("bytes_ratio").diff().over(keys).alias("step"))["step"].drop_nulls()
    assert steps.max() <= 1e-6


def test_no_margin_is_violated_and_every_pair_is_checked(captures, tables):
    bounds = tables["bounds"]
    assert bounds["violations"].sum() == 0
    capture = read_layer(captures[2]["folder"], 0)
    cold = sum(max(p + 1 - HOT - SINKS, 0) for p in capture.positions if p >= START)
    held_out = bounds.filter((pl.col("text") == captures[2]["text"]) & (pl.col("layer") == 0))
    assert (held_out["pairs"] == cold * capture.group).all()


def test_a_group_reads_at_least_what_its_hungriest_head_reads(tables):
    points = tables["points"].filter(pl.col("method") == "calibrated")
    worst = points.group_by("layer", "kv_head", "codec", "rule", "target_metric", "target").agg(
        (pl.col("bytes_ratio").max() - pl.col("bytes_ratio_gqa").min()).alias("excess")
    )
    assert worst["excess"].max() <= 1e-5


def test_the_oracle_loses_none_of_the_top_k_at_theta_zero(tables):
    oracle = tables["sweep"].filter(
        (pl.col("codec") == "exact") & (pl.col("rule") == "relative_topk") & (pl.col("theta") <= 0)
    )
    assert oracle["fer"].max() == 0
    assert (oracle["record_bytes"] == 0).all()


def test_safe_points_follow_from_points(tables):
    safe = tables["safe_points"]
    points = tables["points"].filter(pl.col("method") == "safe")
    keys = ["layer", "head", "codec", "code_bytes", "rule"]
    joined = safe.join(
        points.select(*keys, pl.col("fer").alias("f"), pl.col("elimination").alias("e")), on=keys
    )
    assert joined.height == safe.height == 2 * 4 * 3 * 3
    assert (joined["safe"] == ((joined["f"] <= 0.2) & (joined["e"] >= 0.3))).all()
    assert safe["safe"].any()
    assert not safe["safe"].all()
    assert (safe["hindsight_elimination"] >= 0).all()


def test_bands_cover_the_queries_from_the_first_cold_key_on(captures, tables):
    context = tables["context"].filter(
        (pl.col("codec") == "exact") & (pl.col("layer") == 0) & (pl.col("head") == 0)
    )
    positions = read_layer(captures[2]["folder"], 0).positions
    expected = {
        (40, 150): ((positions >= 40) & (positions < 150)).sum(),
        (150, 300): (positions >= 150).sum(),
    }
    for (start, stop), count in expected.items():
        band = context.filter((pl.col("band_start") == start) & (pl.col("band_stop") == stop))
        assert (band["queries"] == count).all()
    assert set(tables["context"]["codec"]) == {"exact", "transform_code"}


def test_the_same_inputs_give_the_same_bytes(captures, folder, tables, tmp_path):
    again = tmp_path / folder.name
    run(captures, again)
    for name in (*TABLES, "safe_points", "layer_head"):
        assert sha256_file(again / f"{name}.parquet") == sha256_file(folder / f"{name}.parquet")


def test_captures_without_values_have_mass_and_no_output_error(write_captures, tmp_path):
    found = run(write_captures(values=False), tmp_path, layers=(0,))
    assert found["points"]["output_error_mean"].null_count() == found["points"].height
    assert found["points"]["dropped_mass_mean"].null_count() == 0
    assert (found["points"]["bytes_ratio"] > 0).all()


def test_sliding_windows_count_only_what_is_visible(write_captures, tmp_path):
    found = run(write_captures(window=64), tmp_path, layers=(0,))
    assert (found["context"]["cold_keys"] <= 64 - HOT).all()
    assert found["bounds"]["violations"].sum() == 0


def test_a_headline_beyond_the_last_query_is_refused_with_the_fix(captures, tmp_path):
    with pytest.raises(
        ConfigError, match="headline_start is 5000.*last captured query.*raise capture.tokens"
    ):
        run(captures, tmp_path, layers=(0,), params=PARAMS | {"headline_start": 5000})
    assert not list(tmp_path.glob("sweep*"))


def test_a_missing_role_is_refused_by_name(captures, tmp_path):
    with pytest.raises(ConfigError, match="no text has the role 'threshold'"):
        run([captures[0], captures[2]], tmp_path, layers=(0,))
