"""What a run took is summed up; idle time is told only where cores belong to a run."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest

from ghostkv.files.usage import Usage
from ghostkv.report.sections.provenance import _costs


@pytest.mark.parametrize(("cores", "told"), [(2, ["50"]), (0, [])], ids=["a machine", "a cluster"])
def test_the_cores_of_a_cluster_are_no_runs(tmp_path, cores, told):
    (tmp_path / "sketch").mkdir()
    Usage(0.0, 10.0, 5.0, 1.0, 2).write(tmp_path / "sketch/layer_00.tsv")
    # Submitted elsewhere, at the same time.
    Usage(0.0, 10.0, 5.0, 1.0, cores).write(tmp_path / "sketch/layer_01.tsv")
    said = str(_costs(SimpleNamespace(job=SimpleNamespace(logs=tmp_path))))
    assert re.findall(r"2 jobs took (\d+)", said) == ["10"]
    assert re.findall(r"(\d+)%", said) == told
