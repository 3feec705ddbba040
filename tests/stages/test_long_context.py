"""A long context is held in blocks: memory does not grow with its queries, and no table shows where the blocks lie."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from polars.testing import assert_frame_equal

from ghostkv.captures.generators import make
from ghostkv.codecs.records import CodecSpec
from ghostkv.files import blocks
from ghostkv.files.io import read_table
from ghostkv.stages.calibrated.jobs import CalibrateLayer
from ghostkv.stages.calibrated.layer import calibrate_layer
from ghostkv.stages.certificates.jobs import CertifyLayer
from ghostkv.stages.certificates.layer import certify_layer
from ghostkv.stages.frontier.jobs import SweepLayer
from ghostkv.stages.frontier.layer import sweep_layer
from ghostkv.stages.synthetic.files import write_capture
from tests.stages.conftest import job_of, make_sketch

CODECS = [CodecSpec("gaussian", 4), CodecSpec("transform_code", 4)]
CONFIG = {
    "sketch": {"codecs": [{"name": spec.name, "bits": [2]} for spec in CODECS]},
    "frontier": {
        "sinks": 2, "hot": 8, "top_k": 6, "headline_start": 256,
        # Few thetas: what each leaves of a query is no matter of the context.
        "rules": {
            "absolute": {"start": -8.0, "stop": 8.0, "count": 9},
            "relative_topk": {"start": -2.0, "stop": 0.5, "count": 9},
            "relative_lse": {"start": -12.0, "stop": 0.0, "count": 9},
        },
        "headline": {"codec": "transform_code", "bits": 2, "rule": "relative_topk"},
    },
    "certificates": {"bounds": ["page_box", "cluster_ball"], "compared_every": 4, "deltas": [0.05]},
    # Without a layer that trains a frame, which takes torch and its memory.
    "calibrated": {"bits": [4], "bands": [64, 256, 8192], "page": 16, "learned": {"every": None}},
}  # fmt: skip
STAGES = {
    "frontier": (SweepLayer, sweep_layer),
    "certificates": (CertifyLayer, certify_layer),
    "calibrated": (CalibrateLayer, calibrate_layer),
}


def written(folder, tokens, queries):
    """Captures of one KV head, a text of each role."""
    found = []
    for role in ("codec", "threshold", "held_out"):
        positions = np.linspace(64, tokens - 1, queries if role == "held_out" else 32).astype(np.int32)
        write_capture(
            folder / role,
            make({"name": "anisotropic"}, spread=3.0),
            0,
            role,
            tokens,
            positions,
            width=16,
            group=2,
        )
        found.append({"text": role, "domain": "made", "role": role, "folder": str(folder / role)})
    return found


def tables(stage, captures, sketch, folder):
    """Paths of the tables that the job of a stage leaves."""
    kind, work = STAGES[stage]
    outputs = {name: str(folder / f"{name}.parquet") for name in kind.tables}
    work(job_of(kind, CONFIG, "00", captures=captures), sketch, outputs)
    return outputs


@pytest.mark.parametrize("stage", STAGES)
def test_blocks_change_no_table(stage, tmp_path, monkeypatch):
    captures = written(tmp_path, 768, 40)
    sketch = make_sketch(captures, 0, CODECS, tmp_path)
    found = []
    # 2 heads and 768 keys: all 40 queries at once, then 7 at most.
    for pairs in (1 << 22, 7 * 2 * 768):
        monkeypatch.setattr(blocks, "PAIRS", pairs)
        folder = tmp_path / str(pairs)
        folder.mkdir()
        found.append(
            {name: read_table(path) for name, path in tables(stage, captures, sketch, folder).items()}
        )
    whole, in_blocks = found
    for name, table in whole.items():
        # Sums in another order: a key whose estimate is at theta to the last bit may fall on either side of it.
        errors = [column for column in table.columns if column.startswith("output_error")]
        assert_frame_equal(in_blocks[name].drop(errors), table.drop(errors), rel_tol=1e-6)
        assert_frame_equal(in_blocks[name].select(errors), table.select(errors), rel_tol=5e-3, abs_tol=5e-7)


# Runs a stage on a few queries and then on all; says by how much the peak of memory has grown, in bytes.
_MEASURED = """
import json, resource, sys
from pathlib import Path
from ghostkv.files import blocks
from tests.stages.test_long_context import tables
asked = json.loads(sys.argv[1])
blocks.PAIRS = asked["pairs"]
peaks = []
for captures in asked["captures"]:
    tables(asked["stage"], captures, asked["sketch"], Path(asked["folder"]))
    peaks.append(int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) * 1024)
print(peaks[1] - peaks[0])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
@pytest.mark.thorough
@pytest.mark.parametrize("stage", STAGES)
def test_memory_does_not_grow_with_the_queries(stage, tmp_path):
    tokens, few, many = 8192, 32, 512
    texts = {count: written(tmp_path / str(count), tokens, count) for count in (few, many)}
    asked = {
        "stage": stage,
        "captures": list(texts.values()),
        "sketch": make_sketch(texts[few], 0, CODECS, tmp_path),
        "folder": str(tmp_path),
        "pairs": few * 2 * tokens,
    }
    done = subprocess.run(
        [sys.executable, "-c", _MEASURED, json.dumps(asked)],
        check=True,
        capture_output=True,
        text=True,
        # Freed arrays go back at once, so that the peak is what was held.
        env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"},
    )
    print(done.stdout)
    # One float32 array of every query's scores; jobs hold five of them and more where they hold all queries.
    assert int(done.stdout.splitlines()[-1]) < 4 * 2 * many * tokens
