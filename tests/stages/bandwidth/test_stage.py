"""Stage `bandwidth`: measured small, fitted, and asked; survivors follow from the bytes ratios."""

import tempfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest

from ghostkv.captures.capture_files import LAYER_SCHEMA, read_layer
from ghostkv.codecs.records import CodecSpec, load_codecs, read_records
from ghostkv.config.bandwidth import Bandwidth
from ghostkv.config.experiment import load_config
from ghostkv.elimination.attention import ColdRange
from ghostkv.elimination.frontier import Estimates, Setting
from ghostkv.elimination.schemas import CONTEXT_SCHEMA, POINT_SCHEMA
from ghostkv.files.errors import ConfigError, TableError
from ghostkv.files.io import read_metadata, read_table, write_table
from ghostkv.files.tables import table_of, write_rows
from ghostkv.stages.bandwidth import step_times as model
from ghostkv.stages.bandwidth.jobs import MeasureMemory, ModelBandwidth, SurvivorPatterns
from ghostkv.stages.bandwidth.measure import measure
from ghostkv.stages.bandwidth.model import model_bandwidth
from ghostkv.stages.bandwidth.patterns import _survived, survivor_patterns
from ghostkv.stages.bandwidth.schemas import LOSS_SCHEMA, MODEL_SCHEMAS, PATTERN_SCHEMA, SAMPLE_SCHEMA
from ghostkv.stages.bandwidth.schemes import NESTED, MemoryModel, ModelShape, step
from ghostkv.stages.bandwidth.tiers import Tier
from tests.report.bandwidth_fixtures import losses, samples
from tests.stages.conftest import job_of, make_sketch

MEASURE = {
    "memory_mb": 8, "file_mb": 4, "row_bytes": [64, 256], "shares": [0.1, 0.3], "block_kb": [4, 16], "depths": [1, 2],
    "gather_mb": 0.1, "requests": 16, "rounds": 1, "repeats": 2, "layers": 1, "patterns": 2, "seed": 0,
}  # fmt: skip


def pattern(survivors, cold=900):
    row = {
        "layer": 0,
        "kv_head": 0,
        "text": "t",
        "domain": "d",
        "tokens": 1024,
        "position": 1000,
        "cold": cold,
    }
    return row | {"survivors": survivors}


def measured(folder):
    """Counts, samples and their metadata, of a run whose files lie in a folder."""
    rows = [pattern(np.flatnonzero(np.random.default_rng(seed).random(900) < 0.1)) for seed in range(3)]
    write_table(table_of(rows, PATTERN_SCHEMA), folder / "patterns.parquet", PATTERN_SCHEMA)
    outputs = {name: str(folder / f"{name}.parquet") for name in ("samples", "counts")}
    job = MeasureMemory.read({"measure": MEASURE})
    measure(job, {"patterns": str(folder / "patterns.parquet")}, outputs)
    return read_table(outputs["counts"]), read_table(outputs["samples"]), read_metadata(outputs["samples"])


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="there is no /dev/shm")
def test_on_a_file_system_in_memory_only_memory_is_measured():
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        counts, timed, metadata = measured(Path(folder))
        left = sorted(path.name for path in Path(folder).iterdir())
    assert set(timed["tier"]) == set(counts["tier"]) == {"dram"}
    assert metadata["page_cache_dropped"] == "false"
    assert left == ["counts.parquet", "patterns.parquet", "samples.parquet"]


def test_measuring_counts_exactly_and_leaves_nothing_behind(tmp_path):
    counts, timed, metadata = measured(tmp_path)
    if metadata["page_cache_dropped"] == "true":
        assert {"dram", "disk_mapped"} <= set(timed["tier"])
    assert counts.height
    assert counts["error"].max() <= 0.01
    assert set(counts["pattern"]) == {"random", "survivors"}
    assert (timed["seconds"] > 0).all()
    assert timed["name"].is_unique().all()
    assert {"random", "stride", "survivors", "scan"} <= set(timed.filter(pl.col("tier") == "dram")["pattern"])
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "counts.parquet",
        "patterns.parquet",
        "samples.parquet",
    ]


def test_survivors_are_of_any_head_cold_and_not_below_theta():
    visible = ColdRange(np.array([0]), np.array([7]), np.array([1]), np.array([5]))
    scores = np.array([[[0, 1, 2, 3, 4, 9, 9]], [[9, 4, 3, 2, 1, 0, 0]]], np.float32)
    weight, radius = np.ones((2, 1), np.float32), np.full(7, 0.5, np.float32)
    view = SimpleNamespace(visible=visible, kv_head=1, capture=SimpleNamespace(group=2))

    def found(thetas, radius=radius):
        known = Estimates(scores, weight, radius, np.zeros_like(weight), scores)
        theta = np.array([0, 0, *thetas], np.float32)
        return np.flatnonzero(_survived(view, known, "absolute", Setting(1, 2, 2, {}), theta)[0]).tolist()

    # Head 2 keeps bounds of 3.5 or more, head 3 of 4.5 or more: scores from 3, and from 4.
    assert found([3.5, 4.5]) == [1, 3, 4]
    assert found([99.0, 99.0]) == []
    # A head without a threshold eliminates nothing; a record that bounds nothing is always read.
    assert found([99.0, -np.inf]) == [1, 2, 3, 4]
    boundless = np.array([0.5, 0.5, np.inf, 0.5, 0.5, 0.5, 0.5], np.float32)
    assert found([99.0, 99.0], boundless) == [2]


SPEC = CodecSpec("transform_code", 4)
POINT = {
    "headline": SPEC, "rule": "relative_topk", "sinks": 2, "hot": 8, "top_k": 6,
    "target_metric": "fer", "target": 0.2, "layers": [1], "patterns": 48, "code": "f",
}  # fmt: skip


@pytest.fixture(scope="module")
def sketched(captures, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sketched")
    sketch = make_sketch(captures, 1, [SPEC], folder)
    about = {
        "codec": "transform_code",
        "code_bytes": 4,
        "rule": "relative_topk",
        "target_metric": "fer",
        "layer": 1,
    }
    rows = [
        about | {"method": "calibrated", "target": 0.2, "head": head, "theta": -0.2 * head}
        for head in range(4)
    ]
    other = [
        row | {"theta": 50.0, **change} for row in rows for change in ({"method": "safe"}, {"target": 0.1})
    ]
    write_rows(other + rows, folder / "points.parquet", POINT_SCHEMA, {})
    return {name: [path] for name, path in sketch.items()} | {"points": str(folder / "points.parquet")}


def patterns_of(inputs, captures, folder, **changed):
    job = SurvivorPatterns.read(POINT | {"captures": captures} | changed)
    survivor_patterns(job, inputs, {"patterns": str(folder / "patterns.parquet")})
    return read_table(folder / "patterns.parquet")


def survivors_by_hand(inputs, captures, kv_head, position):
    """Keys that a query's two heads read between them, key by key, in float64."""
    capture = read_layer(captures[2]["folder"], 1)
    codec = load_codecs(inputs["codecs"][0], [SPEC])[SPEC, kv_head]
    records = read_records(inputs["records"][0], captures[2]["text"], [SPEC])[SPEC][kv_head]
    decoded, query = codec.decode(records), int(np.flatnonzero(capture.positions == position)[0])
    kept = set()
    for head in (2 * kv_head, 2 * kv_head + 1):
        projected = codec.project(capture.queries[head][query][None])
        guess = codec.estimate(projected, decoded, capture.scale)[0, : position + 1].astype(np.float64)
        score = (
            capture.keys[kv_head][: position + 1].astype(np.float64)
            @ capture.queries[head][query]
            * capture.scale
        )
        cold = range(2, position + 1 - 8)
        tau = sorted(guess[key] if key in cold else score[key] for key in range(position + 1))[-6]
        for key in cold:
            margin = capture.scale * projected.norm[0] * decoded.radius[key]
            if not np.isfinite(margin) or (guess[key] - tau) / margin >= -0.2 * head:
                kept.add(key)
    return sorted(kept), len(cold)


def test_patterns_are_what_the_headline_design_reads(captures, sketched, tmp_path):
    table = patterns_of(sketched, captures, tmp_path)
    assert table.height == 48  # every query of both KV heads, of the held-out text alone
    assert set(table["text"]) == {"prose_held_out_0"}
    assert set(table["layer"]) == {1}
    for row in table.gather_every(5).iter_rows(named=True):
        expected, cold = survivors_by_hand(sketched, captures, row["kv_head"], row["position"])
        assert row["survivors"] == expected
        assert row["cold"] == cold
    lengths = table["survivors"].list.len()
    assert 0 < lengths.sum() < table["cold"].sum()


def test_patterns_are_as_many_as_asked_for_latest_queries_first(captures, sketched, tmp_path):
    table = patterns_of(sketched, captures, tmp_path, patterns=8)
    assert table.group_by("kv_head").len()["len"].to_list() == [4, 4]
    assert table["position"][0] == read_layer(captures[2]["folder"], 1).positions[-1]
    with pytest.raises(TableError, match=r"no calibrated fer point at 0\.5.*\n.*Write: frontier"):
        patterns_of(sketched, captures, tmp_path, target=0.5)


def test_the_model_joins_what_was_measured_and_what_is_configured(tmp_path):
    context = {"codec": "transform_code", "code_bytes": 8, "target_metric": "fer", "target": 0.01, "cold_keys": 956.0,
               "elimination": 0.97, "record_bytes": 9, "layer": 0, "queries": 10, "band_start": 512, "band_stop": 4096,
               "bytes_ratio_gqa": (9 / 256 * 956 + 0.07 * 956 + 68) / 1024}  # fmt: skip
    heads = [context | {"head": head} for head in range(4)]
    write_rows(heads, tmp_path / "context.parquet", CONTEXT_SCHEMA, {})
    write_rows(list(losses()), tmp_path / "losses.parquet", LOSS_SCHEMA, {})
    shape = {"heads": 4, "kv_heads": 2, "head_dim": 64}
    write_rows([shape], tmp_path / "layers.parquet", LAYER_SCHEMA, {})
    rows = [pattern(np.arange(0, 900, 9))]
    write_table(table_of(rows, PATTERN_SCHEMA), tmp_path / "patterns.parquet", PATTERN_SCHEMA)
    timed = table_of(samples().to_dicts(), SAMPLE_SCHEMA)
    write_table(timed, tmp_path / "samples.parquet", SAMPLE_SCHEMA, {"o_direct": "false"})
    inputs = {
        name: str(tmp_path / f"{name}.parquet")
        for name in ("patterns", "samples", "losses", "context", "layers")
    }
    outputs = {name: str(tmp_path / f"{name}_out.parquet") for name in MODEL_SCHEMAS}
    config = {
        "bandwidth": {"contexts": [4096, 16384], "headline_context": 16384, "point": "fer"},
        "frontier": {
            "headline": {"codec": "transform_code", "bits": 1},
            "sinks": 4,
            "hot": 64,
            "targets": {"fer": [0.005, 0.01]},
        },
        "model": {"name": "made-up"},
    }
    job = job_of(ModelBandwidth, config, width=64, layers=[0, 5, 9])
    model_bandwidth(job, inputs, outputs)
    tables = {name: read_table(path) for name, path in outputs.items()}
    for name, path in outputs.items():
        assert tables[name].columns == MODEL_SCHEMAS[name].names
        assert tables[name].height
        assert read_metadata(path)["fingerprint"] == "f"
        assert read_metadata(path)["o_direct"] == "false"
    steps = tables["steps"]
    assert set(steps["shape"]) == {"made-up", job.served.name}
    # Only memory was timed, so there is no placement on this machine's disk.
    names = [placement["name"] for placement in job.placements]
    assert set(steps["placement"]) == {*names, "measured_dram"}
    shape = ModelShape("made-up", 3, 4, 2, 64, 12 * 256**2)
    fitted = tables["fits"].row(0, named=True)
    here = Tier(
        "dram", 1e9 * fitted["gb_s"], 1e-6 * fitted["latency_us"], 64, 1.0, 1e-6 * fitted["overhead_us"],
        1e-6 * fitted["ramp_us"], fitted["ramp_units"],
    )  # fmt: skip
    close = model.clustering(read_table(inputs["patterns"]))
    world = MemoryModel({"dram": here}, "dram", 68, 1.0, 0.0, 0.0, 16, close)
    row = steps.filter(
        shape="made-up", placement="measured_dram", scheme="nested", scenario="constant", context=4096
    )
    expected = step(NESTED, shape, "dram", "dram", 4096, 0.07, world)
    for name in ("share", "link_bytes", "weights_seconds", "attention_seconds", "step_seconds"):
        assert row[name][0] == pytest.approx(expected[name], rel=1e-6), name
    crossings = tables["crossings"]
    assert set(crossings["goal"]) == {"equal output error", "dropped mass <= 0.01", "dropped mass <= 0.05"}
    equal = crossings.filter(pl.col("goal") == "equal output error", pl.col("share").is_not_null())
    assert (equal["output_error"] <= equal["their_output_error"] * (1 + 1e-9)).all()
    assert tables["survivors"].select("measured").to_series().to_list() == [True, False] * 2
    assert tables["survivors"]["share_group"].to_list() == pytest.approx([0.07] * 4)


def tier(**changed):
    return {**Bandwidth().plain()["tiers"][0], **changed}


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"tiers": [tier(unit=100)]}, "power of two"),
        ({"tiers": [tier(gb_s=4.8e9)]}, r"tiers\[0\]\.gb_s"),
        ({"tiers": [tier(latency_us=6e-7)]}, r"tiers\[0\]\.latency_us"),
        ({"tiers": [tier(source="")]}, "source"),
        ({"tiers": [tier(), tier()]}, "twice"),
        ({"placements": [{"name": "x", "kv": "tape", "records": "hbm"}]}, "tape"),
        ({"contexts": [8192, 4096]}, "ascending"),
        ({"headline_context": 5000}, "headline"),
        ({"measure": {"row_bytes": [100]}}, "multiple of"),
        ({"measure": {"block_kb": [12]}}, "power of two"),
    ],
)
def test_bad_configs_are_refused_with_what_to_write(section, said):
    if "tiers" in section:
        section = {"placements": [{"name": "hbm", "kv": "hbm", "records": "hbm"}], **section}
    with pytest.raises(ConfigError, match=said):
        load_config({"bandwidth": section})
