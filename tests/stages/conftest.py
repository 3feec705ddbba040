"""Small captures made at test time: attention with sinks and locality, in the real file format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ghostkv.captures.capture_files import CaptureWriter, LayerCapture
from ghostkv.codecs.records import CodecSpec
from ghostkv.config.experiment import load_config
from ghostkv.files.io import stable_seed
from ghostkv.files.jobs import Job
from ghostkv.files.tables import write_rows
from ghostkv.sources.entries import ModelEntry
from ghostkv.sources.texts import TEXT_SCHEMA
from ghostkv.stages.run import Run
from ghostkv.stages.sketch.jobs import SketchLayer
from ghostkv.stages.sketch.layer import sketch_layer

PROOF = dict.fromkeys(
    (
        "max_relative_error",
        "mean_relative_error",
        "layer_relative_error",
        "exact_relative_error",
        "storage_relative_error",
        "unexplained_relative_error",
    ),
    0.0,
) | {"recomputed": 1}


def write_texts(rows: Sequence[Mapping[str, Any]], path: str | Path) -> None:
    """A table of texts, whose rows have at least `text` and `content`."""
    proved = [{**row, "sha256": sha256(row["content"].encode()).hexdigest()} for row in rows]
    write_rows(proved, path, TEXT_SCHEMA, {})


def make_layer(
    text: str, layer: int, tokens=300, kv_heads=2, group=2, width=16, values=True, window=0, softcap=0.0
):
    """A layer whose queries look along a few directions that keys vary in, as real heads do."""
    shared = np.random.default_rng(layer)
    mixing = shared.normal(size=(kv_heads, width, width)) * (2.0 ** -np.arange(width))[:, None] * 3
    rng = np.random.default_rng(stable_seed(text, layer))
    keys = rng.normal(size=(kv_heads, tokens, width)) @ mixing + shared.normal(size=(kv_heads, 1, width))
    positions = np.sort(rng.choice(np.arange(40, tokens), 24, replace=False)).astype(np.int32)
    aim = np.repeat(mixing, group, axis=0).transpose(0, 2, 1)
    queries = rng.normal(size=(kv_heads * group, len(positions), width)) @ aim.transpose(0, 2, 1) + 0.3
    shape = (kv_heads, tokens, width)
    return LayerCapture(
        layer=layer,
        keys=keys.astype(np.float16),
        values=rng.normal(size=shape).astype(np.float16) if values else None,
        queries=queries.astype(np.float32),
        outputs=np.zeros((kv_heads * group, len(positions), width), np.float32) if values else None,
        positions=positions,
        scale=width**-0.5,
        window=window,
        softcap=softcap,
    )


def job_of(
    cls: type[Job], config: Mapping[str, Any], *wildcards: str, width: int = 16, **changes: Any
) -> Any:
    """The job that a config of two layers makes, by way of a rule's params; `changes` are the test's own."""
    model = ModelEntry(source="random", architecture="llama", head_dim=width)
    run = Run(load_config(config), model, (0, 1), {}, {})
    plain = cls.of(run, *wildcards).params()
    del plain["job"]
    return cls.read(plain | {"code": "f"} | changes)


def make_sketch(captures: Sequence, layer: int, codecs: Sequence[CodecSpec], folder: Path) -> dict[str, str]:
    """Paths of `codecs` and `records` of a layer, which the stage sketch has written."""
    paths = {name: str(folder / f"{name}_{layer}") for name in ("codecs", "records")}
    job = SketchLayer.read({"captures": captures, "layer": layer, "codecs": codecs, "fitted": [], "seed": 0})
    sketch_layer(job, {}, paths)
    return paths


@pytest.fixture(scope="session")
def write_captures(tmp_path_factory):
    """`write_captures(**options)` -> the list that stages take: a text of each role, two layers."""

    def write(**options) -> list[dict[str, str]]:
        folder = tmp_path_factory.mktemp("captures")
        found = []
        for role in ("codec", "threshold", "held_out"):
            text = f"prose_{role}_0"
            metadata = {"model": "made", "text": text, "text_sha256": "0", "fingerprint": "f"}
            width = options.get("width", 16)
            with CaptureWriter(folder / text, width, width * options.get("values", True), metadata) as writer:
                for layer in range(2):
                    writer.append(make_layer(text, layer, **options), PROOF)
            found.append({"text": text, "domain": "prose", "role": role, "folder": str(folder / text)})
        return found

    return write


@pytest.fixture(scope="session")
def captures(write_captures):
    """Captures with values and global attention."""
    return write_captures()
