"""Kernels in Triton's interpreter: survivors to the key, outputs to the cache's precision, edges, the operator, counters."""

import json

import pytest

pytestmark = pytest.mark.thorough
pytest.importorskip("triton", reason="Triton is not installed: pip install 'ghostkv[gpu]'")

from tests.gpu.processes import printed  # noqa: E402

# Largest relative error of an output against float64; results are written in the cache's type.
FLOAT16, BFLOAT16 = 1e-3, 1e-2


@pytest.fixture(scope="module")
def found():
    return json.loads(printed("tests/gpu/interpreted.py"))


def test_survivors_of_random_rows_are_those_of_float64(found):
    got = found["survivors"]
    print(f"\n{got}\nprocessor seconds: {found['seconds']}")
    assert got["rows"] >= 200
    assert got["unequal"] == 0
    # Keys too close to their threshold to tell are hardly any, and both kinds of keys are many.
    assert got["close"] <= 10
    assert 0.05 * got["cold"] < got["survivors"] < 0.95 * got["cold"]


def test_outputs_of_random_rows_are_those_of_float64(found):
    got = found["survivors"]
    assert got["out_float16"] < FLOAT16
    assert got["out_bfloat16"] < BFLOAT16
    assert max(got["lse_float16"], got["lse_bfloat16"]) < 1e-5


def test_rows_that_have_hardly_anything(found):
    edges = found["edges"]
    for name, got in edges.items():
        assert got["unequal"] == got["close"] == 0, name
        assert got["out"] < FLOAT16, name
    assert edges["few_keys"]["cold"] <= 1
    assert edges["no_survivor"]["survivors"] == 0 < edges["no_survivor"]["cold"]
    assert edges["all_survive"]["survivors"] == edges["all_survive"]["cold"]
    assert edges["unbounded"]["survivors"] > 0
    # 2^128 is infinite in float32: the sums of this row were taken again with a maximum.
    assert edges["exact_far_below"]["above_known"] > 128


def test_survivors_are_those_of_the_packed_kernel(found):
    got = found["packed_kernel"]
    assert got["rows"] == 5
    assert got["unequal"] == 0
    assert got["out"] < BFLOAT16


def test_weights_are_whole_and_nearest(found):
    got = found["weights"]
    assert got["not_whole"] == 0
    assert got["off"] < 0.5 + 1e-4


@pytest.mark.parametrize("code_bytes", ["8", "16"])
def test_records_are_those_of_the_codec(found, code_bytes):
    got = found["writing"][code_bytes]
    assert got["other_bytes"] == 0
    # Rounded up for what float32 may miss, by less than a step.
    assert got["rho_below"] == 0
    assert got["rho_above"] <= 1
    assert got["value_sum"] < 1e-6
    assert got["behind"] == got["beyond"] == 0


def test_the_step_is_an_operator_of_torch(found):
    got = found["operator"]
    assert set(got["checks"].values()) == {"SUCCESS"}
    assert got["compiled"] == 0


@pytest.mark.parametrize("reader", ["page_table", "csr", "kernel"])
def test_lists_of_survivors_serve_a_plain_paged_attention(found, reader):
    got = found["emission"][reader]
    # Plain attention is computed in float64; the kernel writes float16.
    assert got["out"] < (FLOAT16 if reader == "kernel" else 1e-5)
    assert got["lse"] < 1e-5


def test_counters_say_what_was_read(found):
    got = found["traffic"]
    assert got["survivors"] + got["exact"] == 2 * got["read"]
    assert got["bytes"] == got["cold"] * 17 + 2 * got["read"] * 256
    assert got["bytes_ratio"] == pytest.approx(got["bytes"] / ((got["cold"] + got["exact"]) * 256))
