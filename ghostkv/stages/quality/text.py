"""Quality: the model decodes held-out text under elimination, and is compared with itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    from ghostkv.stages.quality.jobs import DecodedText, QualityTexts

# Tokens of a text's beginning that are read and decoded with nothing eliminated.
_CHECKED = 256


def measure_texts(
    job: QualityTexts, inputs: Mapping[str, Any], outputs: Mapping[str, str], threads: int = 1
) -> None:
    """Decode the continuations of some texts under every policy, each over one dense context.

    Raises
    ------
    TextError
        A text is shorter than context and continuation.
    ConfigError
        A policy asks for what the sketch or the frontier does not have.
    ModelError
        With nothing eliminated, the model does not say what it says by itself.
    """
    from ghostkv.models.load import load_model
    from ghostkv.models.tokenizer import load_tokenizer

    folder, tables = str(Path(inputs["manifest"]).parent), Tables(TEXT_TABLES)
    sources, tokenizer = sources_of(job, inputs), load_tokenizer(folder)
    rows = [text_row(inputs["texts"], one.text) for one in job.texts]
    ids = [token_ids(tokenizer, row["content"], row["text"], job) for row in rows]
    model = load_model(folder, job.dtype, threads, job.device)
    for text, row, tokens in zip(job.texts, rows, ids, strict=True):
        policies = Policies([one.policy for one in text.policies], inputs, sources)
        begun, checked = _begin(job, text, model, tokens, policies.observer())
        reader = TextReader(tokenizer, tokens, job.context, begun.own())
        found = {"identity": checked, **_decode(begun, policies, reader, text)}
        found["ablation"] = ablate(begun, policies, reader, text.ablation, job.model_layers)
        found["generations"] = generate(begun, policies, reader, text.generation)
        who = {"text": text.text, "domain": row["domain"]}
        for name, some in found.items():
            tables.add_rows(name, [who | one for one in some])
    tables.write(outputs, metadata(job.code))


def _begin(
    job: QualityTexts, text: DecodedText, model: Any, ids: Sequence[int], observer: Policy | None
) -> tuple[Continuation, list[dict]]:
    """A text's dense context, and how far the model is from itself there and at the text's beginning, prefill included."""
    from ghostkv.runtime.continuation import Continuation, captured_context
    from ghostkv.runtime.measure import check_identity, measure_identity

    checked = [measure_identity(model, ids[:_CHECKED])]
    check_identity(checked[0], model)
    folder = next(one.folder for one in job.captures if one.text == text.text)
    held = captured_context(model, folder, job.layers, job.cache_dtype)
    begun = Continuation(model, ids[: job.context + job.continuation], job.context, observer, held)
    checked.append(begun.identity())
    check_identity(checked[1], model)
    return begun, checked


def _decode(
    begun: Continuation, policies: Policies, reader: TextReader, text: DecodedText
) -> dict[str, list[dict]]:
    """Rows of `positions`, `traffic` and `runs`, of every policy."""
    found: dict[str, list[dict]] = {"positions": [], "traffic": [], "runs": []}
    work = progress(text.policies, total=len(text.policies), desc=text.text, unit="policy")
    for one in work:
        work.set_postfix_str(one.policy.label)
        policy, who = policies.make(one.policy.label), {"policy": one.policy.label}
        decoded = begun.decode(policy, one.positions)
        layers = decoded.traffic.layers().iter_rows(named=True)
        run = dict(decoded.traffic.summary()) | {
            "kind": one.kind, "family": one.family, "target": one.asked, "dense_layers": len(policy.dense_layers),
            "certificate": policy.certificate, "prefill": policy.prefill, "seconds": decoded.seconds,
        }  # fmt: skip
        found["positions"] += [who | row for row in reader.rows(decoded.logits)]
        found["traffic"] += [who | row | _dense(row, policy) for row in layers]
        found["runs"].append(who | run)
    return found


def _dense(row: Mapping[str, Any], policy: Policy) -> dict[str, Any]:
    return {"dense": row["layer"] in policy.dense_layers, "dense_share": row["dense"] / row["full"]}
