"""The hierarchy stage: tables add up, nothing is violated, the index is chosen on threshold text alone."""

import numpy as np
import polars as pl
import pytest

from ghostkv.captures.capture_files import CaptureWriter
from ghostkv.config.experiment import load_config
from ghostkv.files.errors import ConfigError
from ghostkv.files.io import read_table, sha256_file
from ghostkv.stages.hierarchy.gather import gather
from ghostkv.stages.hierarchy.jobs import GatherHierarchy, HierarchyLayer
from ghostkv.stages.hierarchy.layer import measure_layer
from tests.stages.conftest import PROOF, job_of, make_layer

TOKENS = 300
CONFIG = {
    "frontier": {"sinks": 2, "hot": 8, "top_k": 6},
    "certificates": {"levels": [1.0, 1.0, 2.0], "shares": [0.1, 0.4, 0.9], "probes": 8},
    "hierarchy": {
        "indexes": [
            {"partition": "pages", "leaf": 4, "bound": "box"},
            {"partition": "kmeans", "leaf": 3, "bound": "wide"},
            {"partition": "kmeans", "leaf": 4, "bound": "box", "levels": 2},
        ],
        "calibrated": {"partition": "kmeans", "leaf": 4, "bound": "box"},
        "queries": 8,
        "compare_every": 1,
        "block": 64,
        "chunk": 16,
        "seed_keys": 16,
        "fer": 0.3,
        "deltas": [0.2],
    },
}
TABLES = HierarchyLayer.tables


def run(captures, trace, folder, layers=(0, 1), **changes):
    texts = [*captures, *([trace] if trace else [])]
    files = {name: [str(folder / f"{name}_{layer}.parquet") for layer in layers] for name in TABLES}
    for number, layer in enumerate(layers):
        job = job_of(HierarchyLayer, CONFIG, str(layer), captures=texts, **changes)
        measure_layer(job, {}, {name: files[name][number] for name in TABLES})
    whole = {name: str(folder / f"{name}.parquet") for name in GatherHierarchy.tables}
    gather(GatherHierarchy(), files, whole)
    return {name: read_table(path) for name, path in whole.items()}


@pytest.fixture(scope="module")
def trace(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trace")
    metadata = {"model": "made", "text": "prose_trace_0", "text_sha256": "0", "fingerprint": "f"}
    with CaptureWriter(folder, 16, 16, metadata) as writer:
        for layer in range(2):
            writer.append(make_layer("prose_trace_0", layer, tokens=TOKENS), PROOF)
    return {"text": "prose_trace_0", "domain": "prose", "role": "trace", "folder": str(folder)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("hierarchy")


@pytest.fixture(scope="module")
def tables(captures, trace, folder):
    return run(captures, trace, folder)


def test_no_check_fails_and_every_kind_of_claim_is_checked(tables):
    checks = tables["checks"]
    assert checks["violations"].sum() == 0
    assert set(checks["what"]) == {"leaf", "coarse", "topk", "mass"}
    assert (checks["checks"] > 0).all()
    proven = tables["heads"].filter(pl.col("certificate") != "calibrated")
    assert proven["violations"].sum() == 0
    assert proven.filter(pl.col("certificate") == "topk")["fer"].sum() == 0


def test_every_head_has_one_index_for_each_aim(tables):
    topk = tables["heads"].filter(pl.col("certificate") == "topk", pl.col("mode") == "grown")
    for aim in ("reads", "bytes"):
        picked = topk.filter(pl.col(f"chosen_for_{aim}"))
        assert (picked.group_by("layer", "kv_head").agg(pl.col("index").n_unique())["index"] == 1).all()
        assert set(picked["role"]) == {"threshold", "held_out", "trace"}
    assert topk.filter(pl.col("role") == "trace")["index"].n_unique() == 3


def test_the_choice_is_the_best_on_threshold_text(tables):
    tried = tables["heads"].filter(pl.col("role") == "threshold")
    sums = tried.group_by("layer", "kv_head", "index").agg(
        pl.col("reads_ratio").sum(), pl.col("chosen_for_reads").first()
    )
    for (_, _), rows in sums.group_by("layer", "kv_head"):
        assert rows.sort("reads_ratio")["chosen_for_reads"][0]


def test_reads_add_up(tables):
    heads = tables["heads"]
    assert (heads["reads"] - heads["anchors"] - heads["records"]).abs().max() < 1e-3
    assert (heads["reads_ratio"] - heads["reads"] / heads["flat_reads"]).abs().max() < 1e-5
    # The flat scan reads a record of every cold key.
    assert (heads["flat_reads"] - heads["keys"]).abs().max() < 1e-3
    assert (heads["records"] <= heads["keys"] + 1e-3).all()
    assert (heads.filter(pl.col("certificate") != "calibrated")["share"] == 1).all()


def test_appended_blocks_alone_are_measured_on_the_trace(tables):
    appended = tables["heads"].filter(pl.col("mode") == "appended")
    assert set(appended["role"]) == {"trace"}
    assert appended["chosen_for_reads"].all()


def test_comparisons_are_made_on_the_trace_of_every_few_layers(captures, trace, tables, tmp_path):
    sparser = run(captures, trace, tmp_path, compare_every=2)["heads"]
    given = (pl.col("chosen_for_reads") | pl.col("chosen_for_bytes")) & (pl.col("mode") == "grown")
    given &= pl.col("certificate") == "topk"
    given |= pl.col("certificate") == "calibrated"
    elsewhere = (pl.col("layer") == 0) | (pl.col("role") == "threshold") | given
    assert sparser.equals(tables["heads"].filter(elsewhere))
    assert sparser.height < tables["heads"].height


def test_fits_cover_every_head(tables):
    fits = tables["fits"]
    assert fits.height == 2 * 4 * 2 * 3
    assert (fits["points"] >= 2).all()
    assert set(fits["measure"]) == {"reads", "reads_ratio", "bytes"}
    assert (fits["low"] <= fits["high"]).all()


def test_held_out_text_changes_no_choice(captures, trace, tables, tmp_path):
    swapped = [*captures[:2], captures[2] | {"folder": trace["folder"]}]
    other = run(swapped, None, tmp_path, layers=(0,))["heads"]
    mine = tables["heads"].filter(pl.col("layer") == 0, pl.col("role") == "threshold")
    assert mine.equals(other.filter(pl.col("role") == "threshold"))
    assert "trace" not in set(other["role"])


def test_the_same_inputs_give_the_same_bytes(captures, trace, folder, tables, tmp_path):
    again = tmp_path / folder.name
    run(captures, trace, again)
    for name in GatherHierarchy.tables:
        assert sha256_file(again / f"{name}.parquet") == sha256_file(folder / f"{name}.parquet")


def test_too_few_queries_calibrate_nothing(captures, trace, tmp_path):
    # 1 / (n + 1) is above the FER aimed at, so the whole margin stays.
    strict = run(captures, trace, tmp_path, layers=(0,), fer=0.01)["heads"]
    rows = strict.filter(pl.col("certificate") == "calibrated")
    assert (rows["share"] == 1).all()
    assert rows["fer"].sum() == 0


def test_a_missing_role_is_refused_by_name(captures):
    job = job_of(HierarchyLayer, CONFIG, "0", captures=[captures[0], captures[2]])
    with pytest.raises(ConfigError, match="no text has the role 'threshold'"):
        measure_layer(job, {}, {})


def test_a_repeated_index_is_refused_with_the_fix():
    entry = {"partition": "pages", "leaf": 4, "bound": "box"}
    with pytest.raises(ConfigError, match=r"hierarchy.indexes is[\s\S]*twice[\s\S]*Write: indexes"):
        load_config({"hierarchy": {"indexes": [entry, entry]}})


def test_captures_without_values_and_with_a_window_are_measured(write_captures, tmp_path):
    found = run(write_captures(values=False, window=120), None, tmp_path, layers=(0,))
    assert found["heads"].height > 0
    assert found["checks"]["violations"].sum() == 0
    assert np.isfinite(found["heads"]["bytes_ratio"].to_numpy()).all()
