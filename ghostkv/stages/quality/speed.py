"""A decode step under the headline policy, timed against a dense one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ghostkv.files.provenance import metadata
from ghostkv.files.tables import write_rows
from ghostkv.sources.texts import text_row
from ghostkv.stages.quality.policies import Policies
from ghostkv.stages.quality.schemas import SPEED_SCHEMA
from ghostkv.stages.quality.setup import sources_of, token_ids

if TYPE_CHECKING:
    from ghostkv.stages.quality.jobs import QualitySpeed


def time_decode(
    job: QualitySpeed, inputs: Mapping[str, Any], outputs: Mapping[str, str], threads: int = 1
) -> None:
    """Time a decode step under the job's policy against a dense one; files as `measure_text` takes them."""
    from ghostkv.models.load import load_model
    from ghostkv.models.tokenizer import load_tokenizer
    from ghostkv.runtime.measure import measure_slowdown

    row, folder = text_row(inputs["texts"], job.text), str(Path(inputs["manifest"]).parent)
    ids = token_ids(load_tokenizer(folder), row["content"], job)
    policies = Policies([job.policy], inputs, sources_of(job, inputs))
    model = load_model(folder, job.dtype, threads)
    steps = min(job.steps, len(ids) // 4)
    timed = measure_slowdown(model, ids, policies.make(job.policy.label), steps=steps, threads=threads)
    parts = {"dense": timed["dense_ms"], "ghost": timed["ghost_ms"], **timed["breakdown"]}
    about = {"text": job.text, "policy": job.policy.label}
    about |= {name: timed[name] for name in ("context", "steps", "slowdown")}
    rows = [about | {"part": part, "milliseconds": milliseconds} for part, milliseconds in parts.items()]
    write_rows(rows, outputs["speed"], SPEED_SCHEMA, metadata(job.code))
