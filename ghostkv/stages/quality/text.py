"""Quality: the model decodes held-out text under elimination, and is compared with itself."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ghostkv.files.progress import progress
from ghostkv.files.provenance import metadata
from ghostkv.files.tables import Tables
from ghostkv.sources.texts import text_row
from ghostkv.stages.quality.policies import Policies
from ghostkv.stages.quality.rows import TextReader, ablate, generate
from ghostkv.stages.quality.schemas import TEXT_TABLES
from ghostkv.stages.quality.setup import sources_of, token_ids

if TYPE_CHECKING:
    from ghostkv.runtime.continuation import Continuation
    from ghostkv.runtime.policy import Policy
    from ghostkv.stages.quality.jobs import DecodedPolicy, QualityText

# Tokens of a text's beginning that are read and decoded with nothing eliminated.
_CHECKED = 256


def measure_text(
    job: QualityText, inputs: Mapping[str, Any], outputs: Mapping[str, str], threads: int = 1
) -> None:
    """Decode one text's continuation under every policy, over one dense prefill.

    Raises
    ------
    TextError
        The text is shorter than context and continuation.
    ConfigError
        A policy asks for what the sketch or the frontier does not have.
    ModelError
        With nothing eliminated, the model does not say what it says by itself.
    """
    from ghostkv.models.load import load_model
    from ghostkv.models.tokenizer import load_tokenizer
    from ghostkv.runtime.continuation import Continuation
    from ghostkv.runtime.measure import check_identity, measure_identity

    folder = str(Path(inputs["manifest"]).parent)
    row, tokenizer = text_row(inputs["texts"], job.text), load_tokenizer(folder)
    ids = token_ids(tokenizer, row["content"], job)
    policies = Policies([one.policy for one in job.policies], inputs, sources_of(job, inputs))
    model = load_model(folder, job.dtype, threads, job.device)
    # Before anything is measured: from the text's beginning, prefill included, and after the whole context.
    checked = [measure_identity(model, ids[:_CHECKED])]
    check_identity(checked[0], model)
    begun = Continuation(model, ids[: job.context + job.continuation], job.context, policies.observer())
    checked.append(begun.identity())
    check_identity(checked[1], model)
    who = {"text": job.text, "domain": row["domain"]}
    reader = TextReader(tokenizer, ids, job.context, begun.own())
    tables = Tables(TEXT_TABLES)
    tables.add_rows("identity", [who | one for one in checked])
    work = progress(job.policies, total=len(job.policies), desc=job.text, unit="policy")
    for one in work:
        work.set_postfix_str(one.policy.label)
        for name, rows in _decode(begun, policies, reader, one).items():
            tables.add_rows(name, [who | row for row in rows])
    tables.add_rows("ablation", [who | row for row in ablate(begun, policies, reader, job)])
    tables.add_rows("generations", [who | row for row in generate(begun, policies, reader, job)])
    tables.write(outputs, metadata(job.code, text=job.text))


def _decode(
    begun: Continuation, policies: Policies, reader: TextReader, one: DecodedPolicy
) -> dict[str, list[dict]]:
    """One policy's rows of `positions`, `traffic` and `runs`."""
    policy, who = policies.make(one.policy.label), {"policy": one.policy.label}
    decoded = begun.decode(policy, one.positions)
    layers = decoded.traffic.layers().iter_rows(named=True)
    run = dict(decoded.traffic.summary()) | {
        "kind": one.kind, "family": one.family, "target": one.asked, "dense_layers": len(policy.dense_layers),
        "certificate": policy.certificate, "prefill": policy.prefill, "seconds": decoded.seconds,
    }  # fmt: skip
    return {
        "positions": [who | row for row in reader.rows(decoded.logits)],
        "traffic": [who | row | _dense(row, policy) for row in layers],
        "runs": [who | run],
    }


def _dense(row: Mapping[str, Any], policy: Policy) -> dict[str, Any]:
    return {"dense": row["layer"] in policy.dense_layers, "dense_share": row["dense"] / row["full"]}
