"""Stage `bandwidth`: measured small, fitted, and asked; survivors follow from the bytes ratios."""

import numpy as np
import polars as pl
import pytest

from ghostkv import bandwidth_model as model
from ghostkv.bandwidth_tables import PATTERN_SCHEMA
from ghostkv.config.bandwidth import Bandwidth
from ghostkv.config.experiment import load_config
from ghostkv.errors import ConfigError, TableError
from ghostkv.io import read_table, write_table
from ghostkv.stages.bandwidth_measure import measure
from ghostkv.tables import table_of
from tests.report.bandwidth_fixtures import bands, samples

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


def test_measuring_counts_exactly_and_leaves_nothing_behind(tmp_path):
    rows = [pattern(np.flatnonzero(np.random.default_rng(seed).random(900) < 0.1)) for seed in range(3)]
    write_table(table_of(rows, PATTERN_SCHEMA), tmp_path / "patterns.parquet", PATTERN_SCHEMA)
    outputs = {name: str(tmp_path / f"{name}.parquet") for name in ("samples", "counts")}
    measure(str(tmp_path / "patterns.parquet"), MEASURE, outputs)
    counts, timed = read_table(outputs["counts"]), read_table(outputs["samples"])
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


def test_held_out_errors_are_of_configurations_that_were_not_fitted():
    fits, errors, tiers = model.check_fits(samples(), 0)
    assert fits[0]["fitted"] == sum(not row["held_out"] for row in errors) == 8
    assert fits[0]["error_worst"] < 0.05
    assert tiers["dram"].bandwidth == pytest.approx(8e9, rel=0.1)
    assert model.check_fits(samples(noise=0.3), 0)[0][0]["error_median"] > 0.05


def test_tiers_with_too_few_timings_are_left_out_and_memory_may_not_be():
    few = samples().head(5).with_columns(pl.lit("store").alias("tier"))
    assert set(model.check_fits(pl.concat([samples(), few]), 0)[2]) == {"dram"}
    with pytest.raises(TableError, match="row_bytes"):
        model.check_fits(few, 0)


def test_survivors_come_back_from_bytes_ratios():
    share, cold, exact, record, pair = 0.07, 1000.0, 68, 9, 256
    ratio = (record / pair * cold + share * cold + exact) / (cold + exact)
    row = {"codec": "transform_code", "code_bytes": 8, "target_metric": "fer", "target": 0.01, "cold_keys": cold,
           "elimination": 0.97, "record_bytes": record, "bytes_ratio_gqa": ratio, "band_start": 512, "band_stop": 2048,
           "layer": 0, "head": 0, "queries": 10}  # fmt: skip
    params = {"headline": {"codec": "transform_code", "bytes": 8}, "sinks": 4, "hot": 64, "target_metric": "fer",
              "target": 0.01, "pair_bytes": pair}  # fmt: skip
    found = model.bands(pl.DataFrame([row, row | {"head": 1}]), params)
    assert found["united"][0] == pytest.approx(share)
    assert found["own"][0] == pytest.approx(0.03)
    assert found["heads"][0] == 2
    with pytest.raises(TableError, match="rerun frontier"):
        model.bands(pl.DataFrame([row]), params | {"target": 0.5})


def test_scenarios_agree_where_measured_and_part_beyond():
    rows = model.survivors(bands(), [2048, 4096, 65536])
    by = {(row["scenario"], row["context"]): row for row in rows}
    assert by["trend", 4096]["share_group"] == by["constant", 4096]["share_group"] == pytest.approx(0.1)
    assert by["constant", 65536]["share_group"] == pytest.approx(0.1)
    # A share that halves with each doubling keeps the number of survivors.
    assert by["trend", 65536]["exponent"] == pytest.approx(-1.0)
    assert by["trend", 65536]["share_group"] == pytest.approx(0.1 / 16)
    assert [row["measured"] for row in rows] == [True, True, False] * 2
    assert all(row["share_group_high"] <= 1 for row in model.survivors(bands((0.1, 0.9)), [1 << 20]))


def test_clustering_is_one_for_random_rows_and_less_for_runs():
    rng = np.random.default_rng(0)
    table = pl.DataFrame([pattern(np.flatnonzero(rng.random(20_000) < 0.05).tolist(), 20_000)])
    assert model.clustering(table).units == pytest.approx(1.0, rel=0.1)
    runs = pl.DataFrame([pattern(list(range(100, 1100)), 20_000)])
    found = model.clustering(runs)
    assert found.at(16)[0] < 0.12
    assert found.at(1) == pytest.approx((1.0, 1 / (20_000 * 0.05 * 0.95)), rel=0.1)
    assert model.clustering(
        pl.DataFrame([pattern([])], schema_overrides={"survivors": pl.List(pl.Int64)})
    ).at(16) == (1, 1)


def tier(**changed):
    return {**Bandwidth().plain()["tiers"][0], **changed}


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"tiers": [tier(unit=100)]}, "power of two"),
        ({"tiers": [tier(gb_s=4.8e9)]}, "check the units"),
        ({"tiers": [tier(latency_us=6e-7)]}, "check the units"),
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
