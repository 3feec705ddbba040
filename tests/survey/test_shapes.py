"""Rungs that follow the rule are carried over as they are, and a group of one head unites nothing."""

import numpy as np
import pytest

from ghostkv.captures.capture_files import LayerCapture
from tests.survey import shapes


def test_what_follows_the_rule_is_carried_over():
    def follows(size, wider):
        rungs = {"heads": 0.1, "united": 0.1 + 0.2 * np.log(size), "together": 0.1 + 0.15 * np.log(size)}
        rungs["margin"] = rungs["together"] + 0.02 * np.sqrt(wider)
        return rungs | {"records": rungs["margin"] + 0.14}

    known = {size: follows(size, 1.0) for size in (1, 2, 3)}
    for size, wider in ((4, 1.0), (4, 2.0), (8, 4.0)):
        found = shapes.carried(known, size, wider)
        assert found == pytest.approx(follows(size, wider))


def test_rungs_of_a_group_go_up(monkeypatch):
    monkeypatch.setattr(shapes, "POSITIONS", (150, 200))
    monkeypatch.setattr(shapes, "DELTAS", (0.05,))
    rng = np.random.default_rng(0)
    keys, queries = rng.normal(size=(1, 200, 16)), rng.normal(size=(3, 40, 16)) * 4
    capture = LayerCapture(
        layer=0, keys=keys.astype(np.float16), values=keys.astype(np.float16), outputs=None,
        queries=queries.astype(np.float32), positions=np.arange(160, 200), scale=0.25, softcap=0.0,
    )  # fmt: skip
    rows = list(shapes._rungs(capture, capture, 0))
    assert [row["size"] for row in rows] == [1, 1, 1, 2, 2, 2, 3]
    for row in rows:
        assert row["heads"] <= row["united"] + 1e-9
        assert row["margin"] < row["records"]
        if row["size"] == 1:
            assert row["heads"] == row["united"] == pytest.approx(row["together"])
    by_size = [np.mean([row["united"] for row in rows if row["size"] == size]) for size in (1, 2, 3)]
    assert by_size == sorted(by_size)
