"""Stage `speed`: rows for every shape, context and number of threads; theta keeps the error; the questions before it."""

import numpy as np
import pytest

from ghostkv.captures.capture_files import read_layer
from ghostkv.config.experiment import load_config
from ghostkv.files.errors import ConfigError
from ghostkv.files.io import read_table
from ghostkv.runtime.dense_attention import dense_ways, set_threads
from ghostkv.runtime.packed_reference import bfloat16_of, float32_of
from ghostkv.stages.speed.jobs import TimeLayers
from ghostkv.stages.speed.layers import time_layers
from ghostkv.stages.speed.question import LAYOUTS, THETAS, drift, layout_losses
from ghostkv.stages.speed.schemas import LAYER_SCHEMA
from ghostkv.stages.speed.timed_layer import generated_layer, spectrum_of
from tests.stages.conftest import job_of

SHAPES = [
    {"name": "small", "heads": 4, "kv_heads": 2, "head_dim": 32, "contexts": [300, 2100]},
    {"name": "alone", "heads": 3, "kv_heads": 1, "head_dim": 64, "contexts": [200]},
]
CONFIG = {
    "speed": {"shapes": SHAPES, "headline_shape": "small", "rounds": 2, "hot": 16, "output_error": 0.05}
}


@pytest.fixture(scope="module")
def table(captures, tmp_path_factory):
    path = str(tmp_path_factory.mktemp("speed") / "layers.parquet")
    job = job_of(TimeLayers, CONFIG, captures=captures)
    time_layers(job, {}, {"layers": path})
    return read_table(path, LAYER_SCHEMA)


def test_every_shape_context_and_number_of_threads_has_a_row(table):
    found = table.select("shape", "source", "tokens", "threads", "headline").rows()
    assert found == [
        (shape, source, tokens, threads, shape == "small")
        for shape, source, tokens in (
            ("captured", "captured", 300),
            ("small", "generated", 300),
            ("small", "generated", 2100),
            ("alone", "generated", 200),
        )
        for threads in (1, 2)
    ]


def test_survivors_are_those_of_float64_and_the_error_is_near_the_one_asked_for(table):
    assert table["survivors_equal"].all()
    assert table["output_error"].max() < 0.15
    assert (table["candidates"] >= table["survivors"]).all()
    assert (table["survivors"] < 1).all()
    one, two = (table.filter(threads=count).drop("threads") for count in (1, 2))
    assert one["theta"].to_list() == pytest.approx(two["theta"].to_list(), abs=0.01)


def test_bytes_are_those_of_records_survivors_and_exact_keys(table):
    row = table.filter(shape="alone", threads=1).row(0, named=True)
    cold = 200 - 4 - 16
    read = 20 + row["survivors"] * cold
    assert row["counted_bytes"] == pytest.approx(cold * (8 + 1) + read * 4 * 64)
    assert row["dense_bytes"] == 200 * 4 * 64


def test_ratios_are_those_of_the_seconds_beside_them(table):
    for row in table.iter_rows(named=True):
        dense = min(filter(None, (row["float32_seconds"], row["bfloat16_seconds"])))
        assert row["dense_seconds"] <= dense
        assert row["threads"] == 2 or row["dense_seconds"] == dense
        assert row["ratio"] == pytest.approx(row["dense_seconds"] / row["ghost_seconds"])
        assert row["cpu_ratio"] == pytest.approx(row["dense_cpu_seconds"] / row["ghost_cpu_seconds"])


def test_all_ways_of_torch_give_the_same_attention():
    rng = np.random.default_rng(0)
    keys, values = (float32_of(bfloat16_of(rng.normal(size=(2, 90, 32)))) for _ in range(2))
    query = float32_of(bfloat16_of(rng.normal(size=(6, 32))))
    set_threads(1)
    scores = np.einsum("kgd,ktd->kgt", query.reshape(2, 3, 32), keys).astype(np.float64) * 0.2
    weights = np.exp(scores) / np.exp(scores).sum(axis=2, keepdims=True)
    want = np.einsum("kgt,ktd->kgd", weights, values).reshape(6, 32)
    for name, way in dense_ways(query, keys, values, 0.2).items():
        assert np.linalg.norm(way() - want) < (1e-6 if "float32" in name else 2e-2) * np.linalg.norm(want), (
            name
        )


def test_generated_scores_have_the_captured_spectrum(captures):
    text = read_layer(next(one["folder"] for one in captures if one["role"] == "held_out"), 0)
    spectrum = spectrum_of(text)
    shape = load_config(CONFIG).speed.shapes[1]
    given = generated_layer(shape, 5000, spectrum, 1.0, 200, 0)
    scores = given.queries[:, 0] @ given.keys[0].T * given.scale
    assert scores.var(axis=1).mean() == pytest.approx(spectrum.scores.sum(), rel=0.1)
    mean, spread = given.values[0].mean(axis=0), given.values[0].var(axis=0).sum()
    assert (mean**2).sum() / spread == pytest.approx(spectrum.values, abs=0.01)


def test_more_bytes_and_finer_layouts_lose_less(captures):
    folders = {one["role"]: one["folder"] for one in captures}
    found = layout_losses([read_layer(folders["codec"], 0)], [read_layer(folders["held_out"], 0)])
    assert set(found) == {(layout, size) for layout in LAYOUTS for size in (4, 8, 16, 32)}
    for layout in LAYOUTS:
        errors = [found[layout, size][0] for size in (4, 8, 16)]
        # Where the coordinates that count have all the bits of a layout, more bytes change nothing but the last digits.
        assert (np.diff(errors) < 1e-4).all()
    assert found["stream", 8][0] < found["stream", 4][0] < found["4", 4][0]


def test_a_bound_that_holds_lets_no_survivor_go(captures):
    folders = {one["role"]: one["folder"] for one in captures}
    moves, counts = drift(read_layer(folders["held_out"], 0), [read_layer(folders["codec"], 0)])
    assert np.isfinite(moves).all()
    for theta in THETAS:
        cold, kept, known, _, running, _ = counts[theta]
        assert cold >= known >= running >= kept


def test_heads_that_do_not_share_and_a_headline_of_no_shape_are_refused():
    with pytest.raises(ConfigError, match="heads: 2"):
        load_config({"speed": {"shapes": [SHAPES[0] | {"heads": 3}], "headline_shape": "small"}})
    with pytest.raises(ConfigError, match="headline_shape: small"):
        load_config({"speed": {"shapes": SHAPES, "headline_shape": "large"}})
