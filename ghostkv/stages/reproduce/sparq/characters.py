"""SparQ's bits per character: a text's beginning is read densely, and the characters after it are foretold under elimination."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ghostkv.files.progress import progress
from ghostkv.files.provenance import metadata
from ghostkv.files.tables import write_rows
from ghostkv.runtime.policy import Policy
from ghostkv.sources.texts import text_row
from ghostkv.stages.reproduce.published import SPARQ, SPARQ_DENSE, SPARQ_KEYS, SPARQ_LOCAL
from ghostkv.stages.reproduce.schemas import CHARACTER_SCHEMA
from ghostkv.stages.reproduce.sparq.attention import PublishedSparQ

if TYPE_CHECKING:
    from ghostkv.models.tokenizer import ModelTokenizer
    from ghostkv.stages.reproduce.jobs import CharacterTable


def character_table(
    job: CharacterTable, inputs: Mapping[str, Any], outputs: Mapping[str, str], threads: int = 1
) -> None:
    """Write the bits per character of every held-out text, dense and with SparQ's three settings.

    The table is empty where tensors were imported, as there is no model then.
    """
    rows: list[dict[str, Any]] = []
    if inputs["manifest"]:
        from ghostkv.models.load import load_model
        from ghostkv.models.tokenizer import load_tokenizer

        folder = str(Path(inputs["manifest"]).parent)
        tokenizer, model = load_tokenizer(folder), load_model(folder, job.dtype, threads, job.device)
        texts = [one for one in job.captures if one.role == "held_out"]
        for one in progress(texts, desc="texts", unit="text"):
            ids = tokenizer.first(text_row(inputs["texts"], one.text)["content"], job.tokens)
            who = {"text": one.text, "domain": one.domain}
            rows += [who | row for row in _foretold(job, model, tokenizer, ids, one.folder)]
    write_rows(rows, outputs["characters"], CHARACTER_SCHEMA, metadata(job.code))


def _foretold(
    job: CharacterTable, model: Any, tokenizer: ModelTokenizer, ids: Sequence[int], folder: str
) -> Iterator[dict[str, Any]]:
    from ghostkv.runtime.continuation import Continuation, captured_context

    first, last = ends(tokenizer, ids, job.read_characters, job.foretold_characters)
    characters = len(tokenizer.decode(ids[:last])) - len(tokenizer.decode(ids[:first]))
    # The last token that is read foretells the first one after it.
    held = captured_context(model, folder, job.layers, job.cache_dtype)
    begun = Continuation(model, ids[: last - 1], first - 1, captured=held)
    about = {"context": first, "tokens": last - first, "characters": characters}

    def bits(logits: np.ndarray) -> float:
        wide = logits.astype(np.float64)
        log_sum = np.logaddexp.reduce(wide, axis=1)
        said = wide[np.arange(len(wide)), ids[first:last]]
        return float((log_sum - said).sum() / np.log(2) / characters)

    dense = bits(begun.own())
    yield about | {"components": None, "bits": dense, "bytes_ratio_gqa": 1.0, "theirs": SPARQ_DENSE}
    for components, theirs in SPARQ.items():
        deciders = {layer: PublishedSparQ(components, SPARQ_KEYS) for layer in job.model_layers}
        decoded = begun.decode(Policy("sparq", deciders, sinks=0, hot=SPARQ_LOCAL))
        ratio = decoded.traffic.summary()["bytes_ratio_gqa"]
        yield about | {
            "components": components, "bits": bits(decoded.logits), "bytes_ratio_gqa": ratio, "theirs": theirs,
        }  # fmt: skip


def ends(tokenizer: ModelTokenizer, ids: Sequence[int], read: int, foretold: int) -> tuple[int, int]:
    """How many tokens say the characters that are read, and those and the foretold ones; of a short text fewer are read."""
    whole = len(tokenizer.decode(ids))
    read = max(1, min(read, whole - foretold))

    def reaching(characters: int) -> int:
        low, high = 1, len(ids)
        while low < high:
            middle = (low + high) // 2
            low, high = (
                (low, middle) if len(tokenizer.decode(ids[:middle])) >= characters else (middle + 1, high)
            )
        return low

    first = min(max(2, reaching(read)), len(ids) - 1)
    return first, max(first + 1, reaching(read + foretold))
