"""The model goes on with a held-out text, once densely and once under elimination."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ghostkv.files.provenance import metadata
from ghostkv.files.tables import write_rows
from ghostkv.runtime.load_policy import load_policy
from ghostkv.runtime.sources import Sources
from ghostkv.runtime.writing import WRITING_SCHEMA
from ghostkv.sources.texts import text_row

if TYPE_CHECKING:
    from ghostkv.stages.demo.jobs import WriteOn


def write_on(job: WriteOn, inputs: Mapping[str, Any], outputs: Mapping[str, str], threads: int = 1) -> None:
    """Write `writing.parquet`: the dense model's greedy continuation, then the policy's, over one dense context."""
    from ghostkv.models.load import load_model
    from ghostkv.models.tokenizer import load_tokenizer, token_ids_of
    from ghostkv.runtime.continuation import Continuation
    from ghostkv.runtime.writing import write_beside

    folder = str(Path(inputs["manifest"]).parent)
    row, tokenizer = text_row(inputs["texts"], job.text), load_tokenizer(folder)
    ids = token_ids_of(tokenizer, row["content"], job.context + 1, job.text)
    begun = Continuation(load_model(folder, job.dtype, threads, job.device), ids, job.context)
    policy = load_policy(job.policy, Sources.read(job, inputs))
    rows = write_beside(begun, [policy], tokenizer, job.tokens)
    who = {"text": job.text, "domain": row["domain"]}
    write_rows(
        [who | row for row in rows], outputs["writing"], WRITING_SCHEMA, metadata(job.code, text=job.text)
    )
