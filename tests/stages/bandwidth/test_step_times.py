"""The memory model on made-up tables: survivors by context, crossings, maps and sensitivities worked out by hand."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from ghostkv.files.errors import TableError
from ghostkv.stages.bandwidth import step_times as model
from ghostkv.stages.bandwidth.jobs import Point
from ghostkv.stages.bandwidth.schemes import (
    INT4,
    NESTED,
    Clustering,
    MemoryModel,
    ModelShape,
    step,
)
from ghostkv.stages.bandwidth.tiers import Tier
from tests.report.bandwidth_fixtures import bands, samples


def survived(survivors, cold=900):
    """A row of the table of patterns, as far as clustering looks at it."""
    return {"cold": cold, "survivors": survivors}


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
    headline = {"name": "transform_code", "code_bytes": 8}
    point = Point.read(
        {
            "headline": headline,
            "rule": "relative_topk",
            "sinks": 4,
            "hot": 64,
            "target_metric": "fer",
            "target": 0.01,
        }
    )
    found = model.bands(pl.DataFrame([row, row | {"head": 1}]), point, pair)
    assert found["united"][0] == pytest.approx(share)
    assert found["own"][0] == pytest.approx(0.03)
    assert found["heads"][0] == 2
    with pytest.raises(TableError, match="rerun frontier"):
        model.bands(pl.DataFrame([row]), replace(point, target=0.5), pair)


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


def test_a_context_takes_the_band_that_holds_it_and_else_the_nearest():
    gap = bands((0.4, 0.2, 0.1)).filter(pl.col("band_start") != 2048)  # 1024-2048 and 4096-8192
    contexts = [512, 1024, 1025, 2048, 2049, 4096, 4097, 8192, 16384]
    rows = model.survivors(gap, contexts)
    by = {(row["scenario"], row["context"]): row for row in rows}
    assert [row["measured"] for row in rows] == 2 * [
        False,
        False,
        True,
        True,
        False,
        False,
        True,
        True,
        False,
    ]
    assert [by["constant", tokens]["share_group"] for tokens in contexts] == pytest.approx(
        [0.4] * 5 + [0.1] * 4
    )
    # Two octaves quarter the share: the exponent is -1, and each edge carries it on.
    assert by["trend", 2049]["share_group"] == pytest.approx(0.4 * 2048 / 2049)
    assert by["trend", 4096]["share_group"] == pytest.approx(0.1 * 4097 / 4096)
    assert by["trend", 16384]["share_group"] == pytest.approx(0.05)
    assert by["trend", 512]["share_group"] == pytest.approx(0.4 * 1025 / 512)
    assert by["trend", 2048]["share_head"] == by["constant", 2048]["share_head"] == pytest.approx(0.2)


def test_clustering_is_one_for_random_rows_and_less_for_runs():
    rng = np.random.default_rng(0)
    table = pl.DataFrame([survived(np.flatnonzero(rng.random(20_000) < 0.05).tolist(), 20_000)])
    assert model.clustering(table).units == pytest.approx(1.0, rel=0.1)
    runs = pl.DataFrame([survived(list(range(100, 1100)), 20_000)])
    found = model.clustering(runs)
    assert found.at(16)[0] < 0.12
    assert found.at(1) == pytest.approx((1.0, 1 / (20_000 * 0.05 * 0.95)), rel=0.1)
    assert model.clustering(
        pl.DataFrame([survived([])], schema_overrides={"survivors": pl.List(pl.Int64)})
    ).at(16) == (1, 1)


# One layer of one head, 100 exact keys; 1 GB/s everywhere and no latency, so that times are bytes.
ONE, GIGA = ModelShape("one", 1, 1, 1, 64, 10_000), 1e9
PLAIN = {name: Tier(name, GIGA, 0.0, 1, 1e6) for name in ("hbm", "dram")}
FLAT = MemoryModel(PLAIN, "hbm", 100, 1.0, 0.0, 1.19e-3, 16, Clustering.none())
PLACED = [{"name": "there", "kv": "dram", "records": "hbm"}]


def test_a_level_is_that_of_the_last_band_and_all_else_goes_with_it():
    plain, levelled = (model.survivors(bands(), [2048, 4096, 65536], level) for level in (None, 0.25))
    for row, other in zip(plain, levelled, strict=True):
        for name in ("share_head", "share_group", "share_group_low", "share_group_high"):
            assert other[name] == pytest.approx(min(1.0, 2.5 * row[name]))
    assert levelled[1]["share_group"] == pytest.approx(0.25)


def test_cells_of_the_maps_are_ratios_of_two_step_times():
    cells = {
        (row["map"], row["x"], row["share"]): row["speedup"] for row in model.maps(ONE, "dram", FLAT, 20_100)
    }
    shares = sorted({share for _, _, share in cells})
    assert (shares[0], shares[-1]) == pytest.approx((0.002, 0.6))
    for share in (shares[0], shares[12], shares[-1]):
        for x in (1 / 1024, 1 / 32, 1.0):
            # INT4: 80 B a key; nested: 9 B beside hbm, and 248 B of each survivor. 25.6 us of exact keys.
            theirs, ours = 1.6e-3 / x, 0.18e-3 + 1.19e-3 + 20_000 * share * 248e-9 / x
            found = next(
                cells[key] for key in cells if key[0] == "bandwidth" and key[1:] == (pytest.approx(x), share)
            )
            assert found == pytest.approx((theirs + 25.6e-6) / (ours + 25.6e-6))
        changed = replace(FLAT, tiers={**PLAIN, "dram": replace(PLAIN["dram"], unit=4096)})
        theirs, ours = (
            step(scheme, ONE, "dram", "hbm", 20_100, share, changed)["attention_seconds"]
            for scheme in (INT4, NESTED)
        )
        assert cells["unit", 4096.0, share] == pytest.approx(theirs / ours)


def test_bars_of_the_tornado_are_reruns_with_the_parameter_changed():
    slow = replace(PLAIN["dram"], bandwidth=2e8, latency=1e-4, unit=256, depth=8.0)
    world = replace(FLAT, tiers={**PLAIN, "dram": slow}, phase=1e-5, overlap=0.25)
    bars = {row["parameter"]: row for row in model.sensitivity(ONE, PLACED, 0.6, world, 20_100)}

    def again(share=0.6, where="dram", changed=None, **fields):
        tiers = {**world.tiers, where: replace(world.tiers[where], **(changed or {}))}
        found = step(NESTED, ONE, "dram", "hbm", 20_100, share, replace(world, tiers=tiers, **fields))
        return found["attention_seconds"]

    reruns = {
        "dram bandwidth": (again(changed={"bandwidth": 1e8}), again(changed={"bandwidth": 4e8})),
        "dram latency": (again(changed={"latency": 5e-5}), again(changed={"latency": 2e-4})),
        "dram unit": (again(changed={"unit": 128}), again(changed={"unit": 512})),
        "dram depth": (again(changed={"depth": 4.0}), again(changed={"depth": 16.0})),
        "hbm bandwidth": tuple(again(where="hbm", changed={"bandwidth": GIGA * by}) for by in (0.5, 2)),
        "survivors": (again(0.3), again(1.0)),  # doubled, but no more than all
        "record bits": (again(code_bits=0.5), again(code_bits=2.0)),
        "phase": (again(phase=5e-6), again(phase=2e-5)),
        "overlap": (again(overlap=0.0), again(overlap=1.0)),
    }
    assert set(bars) == set(reruns)
    for name, (low, high) in reruns.items():
        assert (bars[name]["low_seconds"], bars[name]["high_seconds"]) == pytest.approx((low, high)), name
        assert bars[name]["seconds"] == again()
        assert low != high
    assert bars["overlap"]["elasticity"] is bars["dram unit"]["elasticity"] is None


def test_an_elasticity_is_the_part_of_the_time_that_the_parameter_has():
    bars = {row["parameter"]: row for row in model.sensitivity(ONE, PLACED, 0.5, FLAT, 20_100)}
    total = 25.6e-6 + 0.18e-3 + 1.19e-3 + 10_000 * 248e-9
    assert bars["survivors"]["elasticity"] == pytest.approx(2.48e-3 / total, rel=0.01)
    assert bars["phase"]["elasticity"] == pytest.approx(1.19e-3 / total, rel=0.01)
    assert bars["dram bandwidth"]["elasticity"] == pytest.approx(-2.48e-3 / total, rel=0.02)
