"""A decode step under the headline policy, timed against a dense one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from ghostkv.files.io import read_table
from ghostkv.files.provenance import metadata
from ghostkv.files.tables import write_rows
from ghostkv.sources.texts import text_row
from ghostkv.stages.quality.setup import sources_of, token_ids

SPEED_SCHEMA = pa.schema(
    [
        ("text", pa.string()),
        ("policy", pa.string()),
        ("context", pa.int32()),
        ("steps", pa.int32()),
        ("slowdown", pa.float64()),  # median step under the policy over median dense step
        ("part", pa.string()),  # dense, ghost (a whole step of each, median); records, attend, rest (means)
        ("milliseconds", pa.float64()),
    ]
)


def time_decode(
    model_folder: str,
    texts_table: str,
    text: str,
    thetas: str,
    sketch: str,
    params: Mapping[str, Any],
    output: str,
    threads: int = 1,
) -> None:
    """Time a decode step under the headline policy against a dense one; arguments as `measure_text`."""
    from ghostkv.models.load import load_model, load_tokenizer
    from ghostkv.runtime.measure import measure_slowdown
    from ghostkv.stages.quality.policies import Policies

    row = text_row(texts_table, text)
    ids = token_ids(load_tokenizer(model_folder), row["content"], params, text)
    fitted = dict(read_table(thetas).select("policy", "theta").iter_rows())
    label = params["headline"]["budget"]
    policy = Policies(params["policies"], fitted, sources_of(sketch, params)).make(label)
    model = load_model(model_folder, params.get("dtype", "float32"), threads)
    steps = min(params["slowdown_steps"], len(ids) // 4)
    timed = measure_slowdown(model, ids, policy, steps=steps, threads=threads)
    parts = {"dense": timed["dense_ms"], "ghost": timed["ghost_ms"], **timed["breakdown"]}
    rows = [
        {
            "text": text, "policy": label, "context": timed["context"], "steps": timed["steps"],
            "slowdown": timed["slowdown"], "part": part, "milliseconds": milliseconds,
        }
        for part, milliseconds in parts.items()
    ]  # fmt: skip
    write_rows(rows, output, SPEED_SCHEMA, metadata(params.get("code")))
