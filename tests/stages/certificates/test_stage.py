"""Certificates as a stage: tables add up, nothing is violated, held-out text alone is measured."""

import numpy as np
import polars as pl
import pytest

from ghostkv.captures.capture_files import read_layer
from ghostkv.codecs.nested import Nested, level_bytes
from ghostkv.codecs.records import CodecSpec
from ghostkv.config.certificates import Certificates
from ghostkv.files.errors import ConfigError
from ghostkv.files.io import read_table, sha256_file
from ghostkv.stages.certificates.gather import gather
from ghostkv.stages.certificates.jobs import CertifyLayer, GatherCertificates
from ghostkv.stages.certificates.layer import certify_layer
from tests.stages.conftest import job_of, make_sketch

SINKS, HOT, START = 2, 8, 150
CODECS = [CodecSpec("transform_code", 4), CodecSpec("gaussian", 4)]
CONFIG = {
    "sketch": {"codecs": [{"name": spec.name, "bits": [2]} for spec in CODECS]},
    "frontier": {
        "sinks": SINKS,
        "hot": HOT,
        "top_k": 6,
        "headline_start": START,
        "headline": {"codec": "transform_code", "bits": 2},
    },
    "capture": {
        "query_bands": [{"start": START, "stop": 190, "count": 1}, {"start": 190, "stop": 4096, "count": 1}]
    },
    "certificates": {"probes": 8, "compared_every": 2, "deltas": [0.2, 0.05]},
}
TABLES = CertifyLayer.tables


def run(captures, folder, layers=(0, 1), **changes):
    files = {name: [] for name in TABLES}
    for layer in layers:
        sketch = make_sketch(captures, layer, CODECS, folder)
        outputs = {name: str(folder / f"{name}_{layer}.parquet") for name in TABLES}
        job = job_of(CertifyLayer, CONFIG, str(layer), captures=captures, **changes)
        certify_layer(job, sketch, outputs)
        for name, path in outputs.items():
            files[name].append(path)
    whole = {name: str(folder / f"{name}.parquet") for name in TABLES}
    gather(GatherCertificates(), files, whole)
    return {name: read_table(path) for name, path in whole.items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("certificates")


@pytest.fixture(scope="module")
def tables(captures, folder):
    return run(captures, folder)


def test_no_check_fails_and_every_pair_and_level_is_checked(captures, tables):
    checks = tables["checks"]
    assert checks["violations"].sum() == tables["certificates"]["violations"].sum() == 0
    capture = read_layer(captures[2]["folder"], 0)
    cold = sum(max(p + 1 - HOT - SINKS, 0) for p in capture.positions if p >= START) * capture.group
    margins = checks.filter(
        (pl.col("what") == "margin") & (pl.col("design") == "nested") & (pl.col("layer") == 0)
    )
    assert sorted(set(margins["level"])) == list(range(1, len(Certificates().levels) + 2))
    assert (margins["checks"] == cold).all()
    assert set(checks["what"]) == {"margin", "topk", "mass", "output"}


def test_each_step_of_the_ladder_is_above_the_one_before(tables):
    nested = tables["certificates"].filter(design="nested", storage="nested", certificate="mass")
    keys = ["layer", "kv_head", "text", "target"]
    head, group = (
        nested.filter(decision=one).unique([*keys, "decision"]).sort(keys) for one in ("head", "group")
    )
    steps = [
        head["oracle_bytes_ratio"], head["oracle_bytes_ratio_gqa"], group["kept_bytes_ratio_gqa"], group["bytes_ratio_gqa"]
    ]  # fmt: skip
    assert (steps[0] <= steps[1] + 1e-6).all()
    # The certificate's choice for the group may beat the union of exact scores' own; with its records it never does here.
    assert (group["oracle_bytes_ratio_gqa"] <= steps[2] * 1.02 + 1e-6).all()
    assert (steps[2] < steps[3]).all()
    # Exact scores that decide for the group keep of every head the same.
    assert group["oracle_bytes_ratio"].to_numpy() == pytest.approx(group["oracle_bytes_ratio_gqa"].to_numpy())
    others = tables["certificates"].filter(pl.col("design") != "nested")
    assert others["oracle_bytes_ratio"].null_count() == others.height


def test_constants_are_the_arrays_of_the_codec_over_the_context(captures, tables):
    capture, calibration = (read_layer(captures[n]["folder"], 0) for n in (2, 0))
    width = capture.keys.shape[2]
    codec = Nested.of(level_bytes(Certificates().levels, width))
    codec.fit(calibration.keys[0], calibration.group_queries(0).reshape(-1, width))
    visible = capture.positions[capture.positions >= START] + 1
    size = sum(array.nbytes for array in codec.arrays().values())
    pair = 2 * (width + capture.values.shape[2])
    rows = tables["certificates"].filter(design="nested", layer=0, kv_head=0, text=captures[2]["text"])
    assert rows["constants_bytes_ratio"].to_numpy() == pytest.approx(
        (size / (pair * visible)).mean(), rel=1e-6
    )
    assert (
        tables["certificates"].filter(pl.col("design") != "nested")["constants_bytes_ratio"].null_count() > 0
    )


def test_bands_of_positions_add_up_to_what_all_queries_say(tables):
    banded = pl.col("design").is_in(["nested", "dithered"]) & (pl.col("storage") == "nested")
    nested = tables["certificates"].filter(banded)
    keys = ["layer", "head", "text", "design", "certificate", "target", "decision"]
    pooled = (
        tables["context"]
        .group_by(keys)
        .agg(
            pl.col("queries").sum(),
            *(
                (pl.col(name) * pl.col("queries")).sum() / pl.col("queries").sum()
                for name in ("elimination", "bytes_ratio_gqa")
            ),
        )
    )
    both = nested.join(pooled, on=keys, suffix="_banded")
    assert both.height == nested.height == pooled.height == tables["context"].height / 2
    assert (both["queries"] == both["queries_banded"]).all()
    for name in ("elimination", "bytes_ratio_gqa"):
        assert both[name].to_numpy() == pytest.approx(both[f"{name}_banded"].to_numpy(), rel=1e-5)


def test_every_design_has_both_certificates_and_the_cascade_all_targets(tables):
    frame = tables["certificates"]
    assert set(frame["design"]) == {
        "nested", "dithered", "transform_code_4", "low_bit_4", "block_int8", "page_box", "cluster_ball", "cluster_cone"
    }  # fmt: skip
    nested = frame.filter(pl.col("design") == "nested")
    # layers, heads, storages; the top-k beside two masses, each decided by heads and by groups
    assert nested.height == 2 * 4 * 2 * (1 + 2 * 2)
    others = frame.filter(~pl.col("design").is_in(["nested", "dithered"]))
    assert others.height == 2 * 4 * 6 * 2
    assert (others["storage"] == "additive").all()


def test_the_randomised_certificate_states_its_probability_and_takes_fewer_queries(tables):
    frame, checks = tables["certificates"], tables["checks"]
    chance = frame.filter(pl.col("design") == "dithered")
    # layers, heads, storages, targets; groups decide
    assert chance.height == 2 * 4 * 2 * 2
    assert (chance["failure"] == 1e-12).all()
    assert (frame.filter(pl.col("design") != "dithered")["failure"] == 0).all()
    assert set(chance["decision"]) == {"group"}
    assert set(chance["certificate"]) == {"mass"}
    keys = ["layer", "head"]
    every, some = (
        frame.filter(design=one).unique(keys).sort(keys)["queries"] for one in ("nested", "dithered")
    )
    assert some.to_list() == [(count + 1) // 2 for count in every]
    assert chance["elimination"].max() > 0
    verified = checks.filter(pl.col("design") == "dithered")
    assert set(verified.select("what", "level").iter_rows()) == {
        ("margin", 1), ("margin", 2), ("mass", None), ("output", None)
    }  # fmt: skip
    assert verified["violations"].sum() == 0


def test_a_config_can_leave_the_randomised_certificate_out(captures, tmp_path):
    found = run(captures, tmp_path, layers=(0,), dithered_bits=None)
    assert "dithered" not in set(found["certificates"]["design"]) | set(found["checks"]["design"])


def test_layers_that_cap_their_scores_have_no_randomised_certificate(write_captures, tmp_path):
    found = run(write_captures(softcap=3.0), tmp_path, layers=(0,))
    assert "dithered" not in set(found["certificates"]["design"])
    assert found["checks"]["violations"].sum() == 0


def test_rates_are_consistent(tables):
    frame = tables["certificates"]
    assert (frame["elimination"] <= frame["values_unread"] + 1e-6).all()
    # The shared choice is greedy with exact scores too, and may be a little luckier with others.
    luck = np.where(frame["decision"] == "group", 0.01, 1e-6)
    assert (frame["values_unread"].to_numpy() <= frame["oracle_elimination"].to_numpy() + luck).all()
    mass = frame.filter(pl.col("certificate") == "mass")
    assert (mass["dropped_mass_max"] <= mass["target"]).all()
    assert (mass["dropped_mass_mean"] <= mass["certified_mass_mean"] + 1e-6).all()
    assert (mass["output_error_mean"] <= mass["output_error_bound_mean"] + 1e-6).all()
    nested = frame.filter(pl.col("design") == "nested").partition_by("storage", as_dict=True)
    assert nested["nested",]["elimination"].to_list() == nested["additive",]["elimination"].to_list()


def test_the_cascade_eliminates_something(tables):
    topk = tables["certificates"].filter((pl.col("design") == "nested") & (pl.col("certificate") == "topk"))
    assert topk["elimination"].mean() > 0.5
    # A group reads at least what its hungriest head reads.
    assert (topk["bytes_ratio"] <= topk["bytes_ratio_gqa"] + 1e-6).all()


def test_other_roles_than_codec_and_held_out_do_not_matter(captures, folder, tables, tmp_path):
    swapped = [captures[0], captures[1] | {"folder": captures[0]["folder"]}, captures[2]]
    again = tmp_path / folder.name
    run(swapped, again)
    for name in TABLES:
        assert sha256_file(again / f"{name}.parquet") == sha256_file(folder / f"{name}.parquet")


def test_captures_without_values_have_no_output_checks(write_captures, tmp_path):
    found = run(write_captures(values=False), tmp_path, layers=(0,))
    assert found["certificates"]["output_error_mean"].null_count() == found["certificates"].height
    assert "output" not in set(found["checks"]["what"])
    assert found["checks"]["violations"].sum() == 0


def test_sliding_windows_certify_what_is_visible(write_captures, tmp_path):
    found = run(write_captures(window=64), tmp_path, layers=(0,))
    assert found["checks"]["violations"].sum() == 0
    assert (found["certificates"]["oracle_elimination"] <= 1).all()


def test_levels_scale_with_the_head_and_end_at_the_stored_key():
    assert level_bytes([1, 1, 1, 1, 2, 2], 64) == (8, 8, 8, 8, 16, 16, 57)
    assert sum(level_bytes([1, 1, 1, 1, 2, 2], 128)) + 7 == 256
    assert level_bytes([0.5], 2) == (1, 1)


def test_a_missing_role_and_a_late_headline_are_refused_by_name(captures, tmp_path):
    with pytest.raises(ConfigError, match="no text has the role 'held_out'"):
        run(captures[:2], tmp_path, layers=(0,))
    with pytest.raises(ConfigError, match="headline_start is 5000.*raise capture.tokens"):
        run(captures, tmp_path, layers=(0,), headline_start=5000)
    assert not list(tmp_path.glob("c*.parquet"))


def test_config_asks_for_a_share_a_level_and_planes_to_spare():
    with pytest.raises(ConfigError, match=r"(?s)one share a level.*Write: shares: \[0.485, 0.97\]"):
        Certificates(levels=[1, 1], shares=[0.5])
    with pytest.raises(ConfigError, match="not descending"):
        Certificates(levels=[1, 1], shares=[0.5, 0.4])
    with pytest.raises(ConfigError, match="less than 16"):
        Certificates(levels=[8, 8], shares=[0.5, 0.9])


def test_an_eliminated_key_costs_its_first_level_at_least(captures, tables):
    topk = tables["certificates"].filter((pl.col("design") == "nested") & (pl.col("certificate") == "topk"))
    topk = topk.filter(pl.col("layer") == 0)
    positions = read_layer(captures[2]["folder"], 0).positions
    positions = positions[positions >= START]
    cold = positions + 1 - HOT - SINKS
    # head_dim 16: 2 bytes of code and one of residual; K and V take 64.
    least = np.mean((3 * cold + 64 * (HOT + SINKS)) / (64 * (positions + 1)))
    assert (topk["bytes_ratio"] >= least).all()
