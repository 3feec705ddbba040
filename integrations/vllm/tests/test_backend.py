"""vLLM over survivors beside vLLM by itself, each in a process of its own, on a tiny random model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
# Log of a share of the softmax: between a half and nearly none of the cold keys of the tiny model are read.
THETA = -5.0


def printed(script: str, *arguments: object) -> str:
    run = subprocess.run(
        [sys.executable, str(HERE / script), *map(str, arguments)],
        capture_output=True, text=True, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-6000:]
    return run.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("tiny")
    printed("tiny.py", made)
    return made


def generated(folder: Path, *theta: float) -> dict:
    found = json.loads(printed("generate.py", folder, *theta).splitlines()[-1])
    print("\n", {name: value for name, value in found.items() if name != "tokens"})
    return found


@pytest.fixture(scope="module")
def own(folder):
    return generated(folder)["tokens"]


@pytest.fixture(scope="module")
def everything(folder):
    return generated(folder, float("-inf"))


@pytest.fixture(scope="module")
def some(folder):
    return generated(folder, THETA)


def test_the_tiny_model_says_many_things(own):
    assert [len(tokens) for tokens in own] == [24] * 5
    assert len({token for tokens in own for token in tokens}) > 20


def test_with_every_key_the_tokens_are_those_of_vllm(own, everything):
    assert everything["tokens"] == own
    got = everything["reference"]
    assert got["survivors"] == got["cold"] > 0


@pytest.mark.parametrize("run", ["everything", "some"])
def test_each_step_reads_what_the_reference_reads(run, request):
    got = request.getfixturevalue(run)["reference"]
    # 23 steps of 5 sequences, and the prompt of one token; 2 layers of 2 KV heads.
    assert got["rows"] == (23 * 5 + 1) * 4
    assert got["unequal"] == 0
    assert got["close"] <= got["rows"] / 20
    # Of float16 outputs
    assert got["out"] < 1e-3


def test_counters_are_those_of_the_reference_and_fewer_than_all(some):
    got, counted = some["reference"], some["counted"]
    assert len(counted) == 2
    for name in ("cold", "survivors"):
        # A key too close to its threshold to tell may be counted on either side.
        assert abs(sum(layer[name] for layer in counted) - got[name]) <= got["close"]
    assert 0.05 * got["cold"] < got["survivors"] < 0.95 * got["cold"]
