"""Calibrated: numbers equal those by hand, nothing leaks from held-out text, promises say what they rest on."""

import numpy as np
import polars as pl
import pytest

from ghostkv.captures.capture_files import read_layer
from ghostkv.codecs.records import CodecSpec, load_codecs, read_records
from ghostkv.elimination.monitor import Monitor
from ghostkv.files.io import read_table, sha256_file
from ghostkv.stages.calibrated.gather import gather
from ghostkv.stages.calibrated.jobs import CalibrateLayer, GatherCalibrated
from ghostkv.stages.calibrated.layer import calibrate_layer
from tests.stages.conftest import job_of, make_sketch

CODECS = [CodecSpec("gaussian", 4), CodecSpec("transform_code", 4), CodecSpec("transform_code", 8)]
SINKS, HOT, TOP_K, START = 2, 8, 6, 150
CALIBRATED = {
    "targets": {"fer": [0.02, 0.2], "dropped_mass": [0.2], "output_error": [0.4]},
    "bands": [40, 150, 220, 300],
    "cross_domain": {"fer": [0.02, 0.2], "dropped_mass": [0.2]},
    "group": {"fer": [0.2], "dropped_mass": [0.2]},
    "page": 32,
    "bits": [3, 4],
    "learned": {"every": 2, "steps": 6, "queries": 16, "keys": 128},
}
CONFIG = {
    "calibrated": CALIBRATED,
    "sketch": {"codecs": [{"name": "gaussian", "bits": [2]}, {"name": "transform_code", "bits": [2, 4]}]},
    "frontier": {
        "sinks": SINKS,
        "hot": HOT,
        "top_k": TOP_K,
        "headline_start": START,
        "rules": {
            "absolute": None,
            "relative_topk": {"start": -2.0, "stop": 0.5, "count": 101},
            "relative_lse": {"start": -16.0, "stop": 0.0, "count": 81},
        },
        "headline": {"codec": "transform_code", "bits": 2, "rule": "relative_topk"},
    },
}
LAYER_TABLES, TABLES = CalibrateLayer.tables, GatherCalibrated.tables


def run(captures, folder, layers=(0, 1), config=CONFIG):
    for layer in layers:
        sketch = make_sketch(captures, layer, CODECS, folder)
        outputs = {name: str(folder / f"{name}_{layer}.parquet") for name in LAYER_TABLES}
        job = job_of(CalibrateLayer, config, str(layer), captures=captures)
        calibrate_layer(job, sketch, outputs)
    files = {name: [str(folder / f"{name}_{layer}.parquet") for layer in layers] for name in LAYER_TABLES}
    whole = {name: str(folder / f"{name}.parquet") for name in TABLES}
    gather(job_of(GatherCalibrated, config), files, whole)
    return {name: read_table(path) for name, path in whole.items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("calibrated")


@pytest.fixture(scope="module")
def tables(captures, folder):
    return run(captures, folder)


def by_hand(captures, folder, layer, head, theta):
    """One head under relative_topk with 4 bytes on held-out text, in plain NumPy and float64."""
    capture = read_layer(captures[2]["folder"], layer)
    kv_head = head // capture.group
    spec = CODECS[1]
    codec = load_codecs(folder / f"codecs_{layer}", [spec])[spec, kv_head]
    records = read_records(folder / f"records_{layer}", captures[2]["text"], [spec])[spec][kv_head]
    decoded = codec.decode(records)
    keys, values = (x[kv_head].astype(float) for x in (capture.keys, capture.values))
    rates = {"elimination": [], "fer": [], "dropped": [], "none": [], "mean": [], "bytes": []}
    for row in np.flatnonzero(capture.positions >= START):
        query, last = capture.queries[head, row].astype(float), capture.positions[row] + 1
        scores = keys[:last] @ query * capture.scale
        projected = codec.project(query[None])
        estimate = codec.estimate(projected, decoded, capture.scale)[0, :last].astype(float)
        cold = np.arange(SINKS, last - HOT)
        known = scores.copy()
        known[cold] = estimate[cold]
        margin = projected.norm[0] * capture.scale * decoded.radius[:last]
        statistic = (estimate - np.sort(known)[-TOP_K]) / margin
        gone = np.zeros(last, bool)
        # A record that bounds nothing eliminates nothing, however large theta is.
        gone[cold] = (statistic[cold] < theta) & np.isfinite(margin[cold])
        weight = np.exp(scores)
        output = weight @ values[:last] / weight.sum()
        kept, instead = weight * ~gone, np.exp(estimate) * gone
        plain = kept @ values[:last] / kept.sum()
        mean = (kept @ values[:last] + instead.sum() * values[cold].mean(0)) / (kept.sum() + instead.sum())
        rates["elimination"].append(gone[cold].mean())
        rates["fer"].append(gone[np.argsort(-scores)[:TOP_K]].mean())
        rates["dropped"].append(weight[gone].sum() / weight.sum())
        rates["none"].append(np.linalg.norm(plain - output) / np.linalg.norm(output))
        rates["mean"].append(np.linalg.norm(mean - output) / np.linalg.norm(output))
        width = keys.shape[1] + values.shape[1]
        read = len(cold) * codec.record_bytes + (last - gone.sum()) * 2 * width
        rates["bytes"].append(read / (last * 2 * width))
    return {name: np.mean(found) for name, found in rates.items()}


def test_points_equal_those_by_hand(captures, folder, tables):
    rows = tables["calibrated"].filter(
        pl.col("codec") == "transform_code",
        pl.col("code_bytes") == 4,
        pl.col("rule") == "relative_topk",
        pl.col("decision") == "head",
    )
    assert rows.height == 2 * 4 * (3 + 3)
    for row in rows.iter_rows(named=True):
        theta = -np.inf if row["theta"] is None else row["theta"]
        expected = by_hand(captures, folder, row["layer"], row["head"], theta)
        where = (row["layer"], row["head"], row["target_metric"], row["compensation"])
        assert row["elimination"] == pytest.approx(expected["elimination"], abs=2e-3), where
        assert row["fer"] == pytest.approx(expected["fer"], abs=2e-3), where
        assert row["dropped_mass_mean"] == pytest.approx(expected["dropped"], abs=2e-3), where
        assert row["output_error_mean"] == pytest.approx(expected["none"], rel=0.02, abs=2e-3), where
        assert row["output_error_compensated_mean"] == pytest.approx(expected["mean"], rel=0.02, abs=2e-3)
        risk = {"fer": "fer", "dropped_mass": "dropped_mass_mean"}.get(row["target_metric"])
        risk = (
            risk
            or {
                "none": "output_error_mean",
                "mean": "output_error_compensated_mean",
                "pages": "output_error_pages_mean",
            }[row["compensation"]]
        )
        assert row["achieved"] == pytest.approx(row[risk], abs=1e-6)
        if row["compensation"] == "none":
            assert row["bytes_ratio"] == pytest.approx(expected["bytes"], abs=2e-3)
        elif theta > -np.inf:
            assert row["bytes_ratio"] > expected["bytes"]


def test_calibration_ignores_held_out_text(captures, tables, tmp_path):
    swapped = [*captures[:2], captures[2] | {"folder": captures[0]["folder"]}]
    other = run(swapped, tmp_path, layers=(0,))
    keys = [
        "layer",
        "head",
        "codec",
        "code_bytes",
        "rule",
        "decision",
        "target_metric",
        "compensation",
        "target",
    ]
    mine, theirs = (
        found["calibrated"]
        .filter(pl.col("layer") == 0)
        .select(*keys, "theta", "guaranteed_if_exchangeable")
        .sort(keys)
        for found in (tables, other)
    )
    assert mine.equals(theirs)
    measured = tables["calibrated"].filter(pl.col("layer") == 0)["achieved"]
    assert not measured.equals(other["calibrated"]["achieved"])


def test_what_is_promised_is_said(tables):
    points = tables["calibrated"]
    assert points["floor"].to_numpy() == pytest.approx(1 / (points["calibration_queries"].to_numpy() + 1))
    assert points["floor"].min() > 0.02
    assert points["floor"].max() < 0.2
    promised = points.filter("guaranteed_if_exchangeable")
    assert set(promised["target_metric"]) == {"fer", "dropped_mass"}
    assert promised["target"].min() > 0.1
    assert set(promised["decision"]) == {"head", "united", "group"}
    below = points.filter(pl.col("target") < 0.1)
    assert not below["guaranteed_if_exchangeable"].any()
    assert below["elimination"].max() == 0


def test_heads_that_share_a_decision_lose_no_more_and_read_the_same(tables):
    points = tables["calibrated"].filter(pl.col("code_bytes") == 4, pl.col("target") > 0.1)
    keys = ["layer", "head", "rule", "target_metric"]
    headline = points.filter(pl.col("codec") == "transform_code", pl.col("compensation") == "none")
    own, united, group = (
        headline.filter(pl.col("decision") == name, pl.col("target_metric") != "output_error").sort(keys)
        for name in ("head", "united", "group")
    )
    assert own.height == united.height == group.height == 2 * 4 * 2 * 2
    assert (united["achieved"] <= own["achieved"] + 1e-6).all()
    assert (united["bytes_ratio_gqa"] - own["bytes_ratio_gqa"]).abs().max() < 1e-6
    assert (group["bytes_ratio"] == group["bytes_ratio_gqa"]).all()
    per_group = group.group_by("layer", "kv_head", "rule", "target_metric").agg(
        pl.col("elimination").n_unique()
    )
    assert per_group["elimination"].max() == 1


def test_bands_hold_all_queries_and_agree_with_the_points(captures, tables):
    keys = ["layer", "head", "rule", "target_metric", "compensation", "target"]
    bands = tables["bands"]
    positions = read_layer(captures[2]["folder"], 0).positions
    assert bands.group_by(keys).agg(pl.col("queries").sum())["queries"].unique().to_list() == [
        (positions >= 40).sum()
    ]
    late = bands.filter(pl.col("band_start") >= START).group_by(keys).agg(
        (pl.col("achieved") * pl.col("queries")).sum() / pl.col("queries").sum()
    ).sort(keys)  # fmt: skip
    points = tables["calibrated"].filter(
        pl.col("codec") == "transform_code", pl.col("code_bytes") == 4, pl.col("decision") == "head"
    )
    assert late["achieved"].to_numpy() == pytest.approx(points.sort(keys)["achieved"].to_numpy(), abs=1e-5)


def test_a_small_domain_is_calibrated_without_a_promise(tables):
    cross = tables["cross_domain"]
    assert cross.filter(pl.col("target") < 0.1)["method"].unique().to_list() == ["plug_in"]
    assert not cross.filter(pl.col("method") == "plug_in")["guaranteed_if_exchangeable"].any()
    assert cross.filter(pl.col("target") > 0.1)["guaranteed_if_exchangeable"].all()


def test_no_promise_reaches_another_domain(captures, tmp_path):
    moved = [*captures[:2], captures[2] | {"domain": "verse"}]
    cross = run(moved, tmp_path, layers=(1,))["cross_domain"]
    assert set(zip(cross["calibrated_on"], cross["tested_on"], strict=True)) == {("prose", "verse")}
    assert not cross["guaranteed_if_exchangeable"].any()


def test_learned_codec_is_sound_and_only_where_it_was_trained(tables):
    learned = tables["learned"]
    assert learned["layer"].unique().to_list() == [0]
    assert set(learned["codec"]) == {"transform_code", "learned"}
    assert learned["violations"].sum() == 0
    assert learned["pairs"].min() > 0
    points = tables["calibrated"].filter(pl.col("codec") == "learned")
    assert points["layer"].unique().to_list() == [0]
    assert set(points["target_metric"]) == {"fer", "dropped_mass"}


def test_sizes_that_sketch_did_not_make_are_fitted_alike(captures, tables, tmp_path):
    # 6 bytes are fitted here; made by sketch they give the same rows.
    points = tables["calibrated"].filter(pl.col("codec") == "transform_code")
    assert set(points["code_bytes"]) == {4, 6, 8}
    made = {"codecs": [{"name": "transform_code", "bits": [2, 3, 4]}]}
    sketch = make_sketch(captures, 1, [CodecSpec("transform_code", size) for size in (4, 6, 8)], tmp_path)
    outputs = {name: str(tmp_path / f"{name}.parquet") for name in LAYER_TABLES}
    here, there = (
        job_of(CalibrateLayer, config, "1", captures=captures)
        for config in (CONFIG, CONFIG | {"sketch": made})
    )
    assert set(here.sizes) - set(here.sketched) == {CodecSpec("transform_code", 6)}
    assert set(there.sizes) == set(there.sketched)
    calibrate_layer(there, sketch, outputs)
    found = read_table(outputs["calibrated"])
    assert found.equals(tables["calibrated"].filter(pl.col("layer") == 1).select(found.columns))


def test_summaries_follow_from_the_points(tables):
    points, summary = tables["calibrated"], tables["summary"]
    row = summary.filter(
        pl.col("code_bytes") == 4, pl.col("codec") == "transform_code", pl.col("rule") == "relative_lse",
        pl.col("decision") == "head", pl.col("target_metric") == "dropped_mass", pl.col("domain") == "all",
    )  # fmt: skip
    mine = points.filter(
        pl.col("code_bytes") == 4, pl.col("codec") == "transform_code", pl.col("rule") == "relative_lse",
        pl.col("decision") == "head", pl.col("target_metric") == "dropped_mass",
    )  # fmt: skip
    assert row.height == 1
    assert row["heads"].item() == mine.height == 8
    assert row["achieved"].item() == pytest.approx(mine["achieved"].mean(), abs=1e-6)
    assert row["achieved_worst_head"].item() == pytest.approx(mine["achieved"].max(), abs=1e-6)
    assert row["heads_under"].item() == (mine["achieved"] <= mine["target"]).mean()
    assert tables["dependence"]["text_floor"].to_list() == [0.5] * tables["dependence"].height
    # One text says nothing of how texts differ.
    assert summary["effective_queries"].is_null().all()


def test_promises_on_resampled_texts_follow_from_the_heads(captures, folder, tables):
    resampled, validity = tables["resampled"], tables["validity"]
    # Two rules, three goals, three draws, two methods, eight heads.
    assert validity.height == 2 * 3 * 3 * 2
    assert resampled.height == 8 * validity.height
    one = {"rule": "relative_lse", "target_metric": "dropped_mass", "draw": "texts", "method": "conformal"}
    (row,) = validity.filter(**one).iter_rows(named=True)
    assert row["above"] == pytest.approx(resampled.filter(**one)["above"].mean(), abs=1e-7)
    assert row["allowed"] is None
    bentkus = validity.filter(method="hoeffding_bentkus")
    assert bentkus["allowed"].to_list() == [0.1] * 18
    assert (bentkus.filter(draw="queries")["above"] <= 0.1).all()
    # The conformal rows beside surer thresholds are the calibrated points themselves.
    keys = ["layer", "head", "rule", "target_metric", "target"]
    own = {"codec": "transform_code", "code_bytes": 4, "decision": "head"}
    points = tables["calibrated"].filter(**own).sort(keys)
    points = points.filter(pl.col("target_metric") != "output_error")
    again = tables["high_probability"].filter(method="conformal").sort(keys)
    assert again["theta"].to_list() == points["theta"].to_list()
    sure = tables["high_probability"].filter(method="hoeffding_bentkus").sort(keys)
    assert (sure["elimination"] <= again["elimination"]).all()
    alike = tables["alike"]
    assert alike["heads"].to_list() == [8] * 6
    assert alike["p_least"].to_list() == [1.0] * 6


def test_alarms_are_those_of_the_mean_over_heads_at_each_position(tables):
    for row in tables["alarms"].iter_rows(named=True):
        parts = tables["monitored"].filter(
            rule=row["rule"], calibrated_on=row["calibrated_on"], text=row["text"], target=row["target"]
        )
        by_position: dict[int, list[float]] = {}
        for positions, losses in parts.select("positions", "losses").iter_rows():
            for position, loss in zip(positions, losses, strict=True):
                by_position.setdefault(position, []).append(loss)
        mean = [np.mean(by_position[position]) for position in sorted(by_position)]
        monitor = Monitor(row["target"], 0.05)
        evidence = monitor.update(mean)
        assert row["steps"] == len(mean)
        assert row["alarm"] == monitor.alarm
        assert row["evidence"] == pytest.approx(evidence.max())


def test_the_same_inputs_give_the_same_bytes(captures, folder, tables, tmp_path):
    again = tmp_path / folder.name
    run(captures, again)
    for name in TABLES:
        assert sha256_file(again / f"{name}.parquet") == sha256_file(folder / f"{name}.parquet")


def test_captures_without_values_have_no_output_goals(write_captures, tmp_path):
    found = run(write_captures(values=False), tmp_path, layers=(1,))["calibrated"]
    assert set(found["target_metric"]) == {"fer", "dropped_mass"}
    assert found["output_error_mean"].null_count() == found.height


def test_sliding_windows_and_what_is_left_out(write_captures, tmp_path):
    changed = CALIBRATED | {"learned": CALIBRATED["learned"] | {"every": None}, "page": 0}
    changed |= {name: {"fer": [], "dropped_mass": []} for name in ("group", "cross_domain")}
    found = run(write_captures(window=64), tmp_path, layers=(0,), config=CONFIG | {"calibrated": changed})
    assert set(found["calibrated"]["decision"]) == {"head"}
    assert found["cross_domain"].height == 0
    assert found["learned"].height == 0
    assert (found["bands"]["cold_keys"] <= 64 - HOT).all()
    assert "pages" not in set(found["calibrated"]["compensation"])
