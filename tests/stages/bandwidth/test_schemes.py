"""Schemes on tiers: bytes are conserved, overlap stays within its bounds, times go the way they must."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ghostkv.stages.bandwidth.schemes import (
    ADDITIVE,
    FULL,
    INT4,
    NEAR,
    NESTED,
    OVER_FP8,
    OVER_INT8,
    QUEST,
    SCHEMES,
    WHOLE,
    Clustering,
    MemoryModel,
    ModelShape,
    gather,
    step,
)
from ghostkv.stages.bandwidth.tiers import Tier

SHAPE = ModelShape("made", 2, 8, 2, 64, 1_000_000)
TIERS = {
    "hbm": Tier("hbm", 1e12, 5e-7, 64, 16384.0, near_bandwidth=1e12),
    "dram": Tier("dram", 5e10, 1e-6, 64, 1024.0, near_bandwidth=3e11),
    "nvme": Tier("nvme", 1e10, 8e-5, 4096, 256.0, 4e-7, near_bandwidth=1e10),
}
WORLD = MemoryModel(TIERS, "hbm", 68, 1.0, 0.0, 1e-6, 16, Clustering.none())
SCHEME, KV = st.sampled_from(SCHEMES), st.sampled_from(sorted(TIERS))
CONTEXT, SHARE = st.integers(1, 1 << 20), st.floats(0, 1)


@given(SCHEME, KV, KV, CONTEXT, SHARE, st.floats(0, 1))
def test_overlap_lies_between_nothing_hidden_and_the_longest_chain(
    scheme, kv, records, context, share, overlap
):
    found = step(scheme, SHAPE, kv, records, context, share, replace(WORLD, overlap=overlap))
    weights, first, cold = (found[f"{name}_seconds"] for name in ("weights", "record", "kv"))
    # Where all is read, no read waits for another; else bounds need records and survivors bounds, and weights neither.
    alone = scheme in WHOLE
    longest = max(weights + first, cold) if alone else max(weights, cold) + first
    assert longest * (1 - 1e-9) <= found["step_seconds"] <= (weights + first + cold) * (1 + 1e-9)
    assert found["step_seconds"] == pytest.approx(found["weights_seconds"] + found["attention_seconds"])
    if kv == "hbm":  # one tier cannot serve two at once
        assert found["hidden_seconds"] == 0


@given(SCHEME, KV, KV, CONTEXT, SHARE)
def test_link_bytes_are_the_sum_of_what_is_read_and_never_less_than_wanted(
    scheme, kv, records, context, share
):
    found = step(scheme, SHAPE, kv, records, context, share, WORLD)
    assert found["link_bytes"] == pytest.approx(
        found["fast_bytes"] + found["record_bytes"] + found["kv_bytes"]
    )
    assert all(value >= 0 for value in found.values())
    cold = max(0, context - 68) * SHAPE.kv_heads * SHAPE.layers
    wanted = {
        "full": 256.0, "fp8": 128.0, "int8": 136.0, "int4": 80.0, "int3": 64.0, "quest": 0.0, "additive": 256 * share,
        "nested": 248 * share, "near_memory": 256 * share, "over_fp8": 128 * share, "over_int8": 136 * share,
    }[scheme]  # fmt: skip
    assert found["kv_bytes"] >= cold * wanted * (1 - 1e-9)


@given(st.sampled_from((QUEST, ADDITIVE, NESTED, NEAR)), st.sampled_from(("hbm", "dram")), SHARE, SHARE)
def test_more_survivors_take_no_less_time_on_lines(scheme, kv, low, high):
    low, high = sorted((low, high))
    few, many = (step(scheme, SHAPE, kv, "hbm", 65536, share, WORLD) for share in (low, high))
    assert many["link_bytes"] >= few["link_bytes"] * (1 - 1e-9)
    assert many["attention_seconds"] >= few["attention_seconds"] * (1 - 1e-9)


@given(SCHEME, KV, SHARE, st.integers(4096, 1 << 19))
def test_a_longer_context_takes_no_less_time_and_bytes(scheme, kv, share, context):
    short, long = (step(scheme, SHAPE, kv, "hbm", tokens, share, WORLD) for tokens in (context, 2 * context))
    assert long["link_bytes"] + long["near_bytes"] >= short["link_bytes"] + short["near_bytes"]
    assert long["attention_seconds"] >= short["attention_seconds"] * (1 - 1e-9)


@given(SCHEME, KV, SHARE, CONTEXT, st.floats(1, 50))
def test_a_faster_tier_is_no_slower(scheme, kv, share, context, factor):
    faster = {name: replace(tier, bandwidth=tier.bandwidth * factor) for name, tier in TIERS.items()}
    plain = step(scheme, SHAPE, kv, "hbm", context, share, WORLD)
    better = step(scheme, SHAPE, kv, "hbm", context, share, replace(WORLD, tiers=faster))
    assert better["step_seconds"] <= plain["step_seconds"] * (1 + 1e-9)


def test_survivors_hide_behind_weights_and_never_behind_their_own_records():
    """Times by hand: 1 GB/s everywhere, no latency, one layer of one head; a pair is 256 B."""
    plain = Tier("plain", 1e9, 0.0, 1, 1e6)
    tiers = {name: replace(plain, name=name) for name in ("hbm", "dram", "cxl")}
    # Weights of 20 kB take 20 us, 100 exact pairs 25.6 us, 1,000 records of 9 B 9 us beside them.
    shape = ModelShape("one", 1, 1, 1, 64, 10_000)
    world = MemoryModel(tiers, "hbm", 100, 1.0, 1.0, 1e-6, 16, Clustering.none())
    for records, first in (("hbm", 34.6e-6), ("dram", 25.6e-6), ("cxl", 25.6e-6)):
        found = step(ADDITIVE, shape, "dram", records, 1100, 0.5, world)
        # 500 survivors take 128 us and wait 1 us for the kernel.
        assert found["record_seconds"] == pytest.approx(first)
        assert found["kv_seconds"] == pytest.approx(129e-6)
        assert found["hidden_seconds"] == pytest.approx(20e-6)
        assert found["step_seconds"] == pytest.approx(first + 129e-6)
    for records in tiers:  # where INT4 has no records, and reads 80 B a key beside weights and exact keys
        found = step(INT4, shape, "dram", records, 1100, 0.5, world)
        assert found["hidden_seconds"] == pytest.approx(20e-6 + 25.6e-6)
        assert found["step_seconds"] == pytest.approx(80e-6)


def test_bytes_by_hand():
    tokens = 68 + 1000
    full, int4, additive, near = (
        step(scheme, SHAPE, "dram", "hbm", tokens, 0.1, WORLD) for scheme in (FULL, INT4, ADDITIVE, NEAR)
    )
    heads = SHAPE.kv_heads * SHAPE.layers
    assert full["fast_bytes"] == heads * 68 * 256
    assert full["kv_bytes"] == heads * 1000 * 256
    # 4 bits an element, and a scale and a zero point of 2 bytes each for every 32.
    assert int4["kv_bytes"] == heads * 1000 * (64 + 16)
    assert additive["record_bytes"] == heads * 9024  # 9 bytes a key, whole lines
    assert additive["kv_bytes"] == pytest.approx(heads * 100 * 256)
    assert near["near_bytes"] == heads * 9024
    assert near["record_bytes"] == heads * 512  # four queries of 64 in fp16 go down the link
    assert near["link_bytes"] < additive["link_bytes"]


def test_nesting_saves_memory_always_and_bytes_only_where_it_fills_a_unit():
    fine = replace(WORLD, tiers={name: replace(tier, unit=8) for name, tier in TIERS.items()})
    for world, saved in ((WORLD, 0.0), (fine, 8.0)):
        additive, nested = (step(s, SHAPE, "dram", "hbm", 10_068, 0.1, world) for s in (ADDITIVE, NESTED))
        heads = SHAPE.kv_heads * SHAPE.layers
        assert additive["kv_bytes"] - nested["kv_bytes"] == pytest.approx(heads * 1000 * saved)
        assert additive["stored_bytes"] - nested["stored_bytes"] == heads * 10_068 * 8


def test_over_a_quantised_cache_all_but_the_records_is_smaller():
    fine = replace(WORLD, tiers={name: replace(tier, unit=1) for name, tier in TIERS.items()})
    full, fp8, int8 = (
        step(scheme, SHAPE, "hbm", "hbm", 10_068, 0.1, fine) for scheme in (ADDITIVE, OVER_FP8, OVER_INT8)
    )
    for found, pair in ((fp8, 128), (int8, 136)):
        assert found["record_bytes"] == full["record_bytes"]
        assert found["fast_bytes"] == full["fast_bytes"]
        assert found["kv_bytes"] == pytest.approx(full["kv_bytes"] * pair / 256)
        heads = SHAPE.kv_heads * SHAPE.layers
        assert found["stored_bytes"] == heads * 10_068 * (pair + 9)


def test_records_in_a_slower_tier_cost_more():
    fast, slow = (step(NESTED, SHAPE, "nvme", records, 131072, 0.05, WORLD) for records in ("hbm", "dram"))
    assert slow["record_seconds"] > fast["record_seconds"]


def test_clustered_survivors_touch_fewer_blocks_but_never_fewer_than_they_fill():
    half = Clustering(np.array([1.0, 16.0]), np.array([1.0, 0.5]), np.array([1.0, 0.5]))
    full = Clustering(np.array([1.0, 16.0]), np.array([1.0, 1e-6]), np.array([1.0, 1e-6]))
    plain = gather(10_000, 0.05, 256, TIERS["nvme"], Clustering.none())
    assert gather(10_000, 0.05, 256, TIERS["nvme"], half)[1] == pytest.approx(plain[1] / 2)
    assert gather(10_000, 0.05, 256, TIERS["nvme"], full)[1] == pytest.approx(0.05 * 10_000 * 256)
    assert gather(10_000, 0.05, 256, TIERS["dram"], half) == gather(
        10_000, 0.05, 256, TIERS["dram"], Clustering.none()
    )
