"""Quality: the model decodes held-out text under elimination, and is compared with itself."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from ghostkv import __version__
from ghostkv.files.errors import ConfigError, TextError
from ghostkv.files.io import read_table, write_table
from ghostkv.files.logs import progress
from ghostkv.files.tables import table_of
from ghostkv.sources.texts import text_row
from ghostkv.stages.quality.rows import Reader, ablate, generate
from ghostkv.stages.quality.schemas import (
    TEXT_TABLES,
)

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
    ids = _token_ids(tokenizer, row["content"], params, text)
    fitted = dict(read_table(thetas).select("policy", "theta").iter_rows())
    policies = Policies(params["policies"], fitted, _sources(sketch, params))
    model = load_model(model_folder, params.get("dtype", "float32"), threads)
    who = {"text": text, "domain": row["domain"]}
    begun = Continuation(
        model, ids[: params["context"] + params["continuation"]], params["context"], policies.observer()
    )
    reader = Reader(tokenizer, ids, params["context"], begun.own())
    found: dict[str, list[dict]] = {name: [] for name in TEXT_TABLES}
    work = progress(policies, total=len(policies.entries), desc=text, unit="policy")
    for label in work:
        work.set_postfix_str(label)
        entry, policy = policies.entries[label], policies.make(label)
        count = min(entry.get("positions") or params["continuation"], params["continuation"])
        decoded = begun.decode(policy, count)
        about = {**who, "policy": label}
        found["positions"] += [about | one for one in reader.rows(decoded.logits)]
        found["traffic"] += [
            about | one | {"dense": one["layer"] in policy.dense_layers}
            for one in decoded.traffic.layers().iter_rows(named=True)
        ]
        found["runs"].append(
            about | dict(decoded.traffic.summary()) | {
                "kind": kind_of(entry), "family": family_of(entry), "target": target_of(entry),
                "dense_layers": len(policy.dense_layers), "certificate": policy.certificate, "prefill": policy.prefill,
                "positions": count, "seconds": decoded.seconds,
            }
        )  # fmt: skip
    found["ablation"] = [who | one for one in ablate(begun, policies, reader, params)]
    found["generations"] = [who | one for one in generate(begun, policies, reader, params)]
    for name, schema in TEXT_TABLES.items():
        write_table(table_of(found[name], schema), outputs[name], schema, _metadata(params) | {"text": text})


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
    ids = _token_ids(load_tokenizer(model_folder), row["content"], params, text)
    fitted = dict(read_table(thetas).select("policy", "theta").iter_rows())
    label = params["headline"]["budget"]
    policy = Policies(params["policies"], fitted, _sources(sketch, params)).make(label)
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
    write_table(table_of(rows, SPEED_SCHEMA), output, SPEED_SCHEMA, _metadata(params))


def _token_ids(tokenizer: Any, content: str, params: Mapping, text: str) -> list[int]:
    wanted = params["context"] + params["continuation"]
    # One more, if there is one: the last position's next token.
    ids = tokenizer(content, truncation=True, max_length=wanted + 1, verbose=False)["input_ids"]
    if len(ids) < wanted:
        raise TextError(
            f"text {text!r} has {len(ids)} tokens with this model's tokenizer, fewer than the {wanted} that its context "
            f"({params['context']}) and quality.continuation ({params['continuation']}) take together.\n"
            f"  Write: tokens: {len(ids)}   (under capture), or longer texts"
        )
    return ids


def _sources(sketch: str, params: Mapping) -> Any:
    from ghostkv.runtime.load_policy import Sources

    if list(params["layers"]) != list(range(params["model_layers"])):
        raise ConfigError(
            f"config: capture.layers records {len(params['layers'])} of the model's {params['model_layers']} layers, "
            "and a model that decodes needs records of all. Accepted: all.\n  Write: layers: all   (under capture)"
        )
    described = read_table(Path(params["captures"][0]["folder"]) / "layers.parquet")
    return Sources(
        params["layers"], int(described["heads"][0]), Path(sketch), params["captures"], Path(params["points"]),
        params["start"],
    )  # fmt: skip


def _metadata(params: Mapping) -> dict[str, str]:
    return {"package_version": __version__, "fingerprint": params.get("code", "")}
