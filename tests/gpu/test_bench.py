"""The benchmark's code, tried in the interpreter; what it would measure needs a card."""

import json
import subprocess
import sys

import pytest
import torch

pytestmark = pytest.mark.thorough
pytest.importorskip("triton", reason="Triton is not installed: pip install 'ghostkv[gpu]'")

from ghostkv.gpu.bench.__main__ import parts  # noqa: E402
from tests.gpu.processes import ROOT, printed  # noqa: E402


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench")
    printed("-m", "ghostkv.gpu.bench", "--out", str(folder), "--interpret")
    return {name: json.loads((folder / f"{name}.json").read_text()) for name in parts()}


def test_every_part_leaves_a_file_and_no_times_that_nobody_took(found):
    times = []
    for one in found.values():
        assert one["interpreted"]
        assert one["card"] is None
        assert "error" not in one
        times += [
            row[key]["least_us"] for row in one["rows"] for key in ("step", "select", "attend") if key in row
        ]
        times += [row["least_us"] for row in one["rows"] if "least_us" in row]
    assert len(times) > 10
    assert set(times) == {None}


def test_rows_say_what_a_speed_up_must_stand_beside(found):
    assert [row["rows_that_differ"] for row in found["correctness"]["rows"]] == [0]
    rows = found["attention"]["rows"]
    assert {row["clustered"] for row in rows} == {False, True}
    for row in rows:
        assert 0 <= row["share"] <= 1
        assert 0 < row["bytes"] < row["dense_bytes"]
        assert 0 < row["output_error"] < 0.5
        assert all(way["off_first"] < 0.02 for way in row["dense"].values())
    assert [row["way"] for row in found["whole_step"]["rows"]] == ["dense", "ghost"]
    assert all(row["finite"] for row in found["whole_step"]["rows"])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a card")
def test_without_a_card_it_stops_with_one_error(tmp_path):
    run = subprocess.run(
        [sys.executable, "-m", "ghostkv.gpu.bench", "--out", tmp_path / "none"],
        capture_output=True, text=True, cwd=ROOT, check=False,
    )  # fmt: skip
    assert run.returncode != 0
    assert "--interpret" in run.stderr
    assert "Traceback" not in run.stderr
    assert not (tmp_path / "none").exists()
