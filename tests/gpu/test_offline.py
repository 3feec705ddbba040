"""Kernels compiled for cards that are not there: no spill, wide loads of codes, few instructions a key."""

import json

import pytest

pytestmark = pytest.mark.thorough
pytest.importorskip("triton", reason="Triton is not installed: pip install 'ghostkv[gpu]'")

from ghostkv.gpu.configs import ARCHITECTURES, config_of  # noqa: E402
from ghostkv.gpu.layout import CODE_BYTES  # noqa: E402
from tests.gpu.processes import printed  # noqa: E402

# Thread instructions that a card has for a key of 16 bytes while its memory brings it: 120 on an H200.
MOST_INSTRUCTIONS = 110


@pytest.fixture(scope="module")
def lines():
    return [json.loads(line) for line in printed("tests/gpu/offline.py").splitlines()]


def test_every_kernel_and_config_compiles_for_every_architecture(lines):
    kernels = {line["kernel"] for line in lines}
    assert kernels == {"write_records", "prepare", "scan", "select", "emit", "attend", "merge"}
    configs = {
        (one, config_of(one, code_bytes, 4, dim))
        for one in ARCHITECTURES
        for code_bytes in CODE_BYTES
        for dim in (64, 128, 256)
    }
    tried = {
        (
            line["architecture"],
            config_of(line["architecture"], line["code_bytes"], line["group"], line["head_dim"]),
        )
        for line in lines
    }
    assert tried == configs


def test_nothing_spills(lines):
    assert [line for line in lines if line["spilled"] or line["stack"]] == []


def test_shared_memory_and_registers_leave_room(lines):
    assert max(line["shared"] for line in lines) <= 99 * 1024
    assert max(line["registers"] for line in lines) < 255


def test_codes_are_loaded_16_bytes_at_a_time(lines):
    for line in lines:
        if line["kernel"] in ("scan", "select"):
            assert any(load.endswith(".128") for load in line["loop_loads"]), line


def test_a_key_takes_few_instructions(lines):
    scans = [line for line in lines if line["kernel"] in ("scan", "select")]
    for line in scans:
        print(
            f"\n{line['kernel']} sm_{line['architecture']}, {line['code_bytes']} bytes: {line['instructions_a_key']:.1f}",
            end="",
        )
    # One with every width of field, and no soft cap.
    bound = [
        line["instructions_a_key"] for line in scans if line["kernel"] == "scan" and line["code_bytes"] <= 16
    ]
    assert len(bound) >= 4
    assert max(bound) <= MOST_INSTRUCTIONS
