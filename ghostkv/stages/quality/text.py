"""Quality: the model decodes held-out text under elimination, and is compared with itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ghostkv.files.io import read_table
from ghostkv.files.logs import progress
from ghostkv.files.provenance import metadata
from ghostkv.files.tables import Tables
from ghostkv.sources.texts import text_row
from ghostkv.stages.quality.rows import Reader, ablate, generate
from ghostkv.stages.quality.schemas import (
    TEXT_TABLES,
)
from ghostkv.stages.quality.setup import sources_of, token_ids


def measure_text(
    model_folder: str,
    texts_table: str,
    text: str,
    thetas: str,
    sketch: str,
    params: Mapping[str, Any],
    outputs: Mapping[str, str],
    threads: int = 1,
) -> None:
    """Decode one text's continuation under every policy, over one dense prefill.

    Parameters
    ----------
    model_folder, texts_table, text : str
    thetas : str
        Table of `fit_thetas`.
    sketch : str
        ``results/sketch``.
    params : mapping
        As `fit_thetas`; also `dtype` of section `model`.
    outputs : mapping
        Paths of `positions`, `traffic`, `runs`, `ablation` and `generations`.
    threads : int

    Raises
    ------
    TextError
        The text is shorter than context and continuation.
    ConfigError
        A policy asks for what the sketch or the frontier does not have.
    """
    from ghostkv.models.load import load_model, load_tokenizer
    from ghostkv.runtime.continuation import Continuation
    from ghostkv.stages.quality.policies import Policies, family_of, kind_of, target_of

    row, tokenizer = text_row(texts_table, text), load_tokenizer(model_folder)
    ids = token_ids(tokenizer, row["content"], params, text)
    fitted = dict(read_table(thetas).select("policy", "theta").iter_rows())
    policies = Policies(params["policies"], fitted, sources_of(sketch, params))
    model = load_model(model_folder, params.get("dtype", "float32"), threads)
    who = {"text": text, "domain": row["domain"]}
    begun = Continuation(
        model, ids[: params["context"] + params["continuation"]], params["context"], policies.observer()
    )
    reader = Reader(tokenizer, ids, params["context"], begun.own())
    tables = Tables(TEXT_TABLES)
    work = progress(policies, total=len(policies.entries), desc=text, unit="policy")
    for label in work:
        work.set_postfix_str(label)
        entry, policy = policies.entries[label], policies.make(label)
        count = min(entry.get("positions") or params["continuation"], params["continuation"])
        decoded = begun.decode(policy, count)
        about = {**who, "policy": label}
        tables.add_rows("positions", [about | one for one in reader.rows(decoded.logits)])
        layers = decoded.traffic.layers().iter_rows(named=True)
        tables.add_rows(
            "traffic", [about | one | {"dense": one["layer"] in policy.dense_layers} for one in layers]
        )
        tables.add_rows("runs", [
            about | dict(decoded.traffic.summary()) | {
                "kind": kind_of(entry), "family": family_of(entry), "target": target_of(entry),
                "dense_layers": len(policy.dense_layers), "certificate": policy.certificate, "prefill": policy.prefill,
                "positions": count, "seconds": decoded.seconds,
            }
        ])  # fmt: skip
    tables.add_rows("ablation", [who | one for one in ablate(begun, policies, reader, params)])
    tables.add_rows("generations", [who | one for one in generate(begun, policies, reader, params)])
    tables.write(outputs, metadata(params.get("code"), text=text))
