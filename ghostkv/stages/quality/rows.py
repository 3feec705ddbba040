"""What a text's decode says under each policy, as rows of the tables of stage `quality`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from ghostkv.runtime.writing import write_beside
from ghostkv.stages.quality.metrics import NO_TOKEN, Divergence, divergence

if TYPE_CHECKING:
    from ghostkv.config.quality import Ablation, Generation
    from ghostkv.models.tokenizer import ModelTokenizer
    from ghostkv.runtime.continuation import Continuation
    from ghostkv.stages.quality.policies import Policies


class TextReader:
    """A text's dense logits and its tokens as words; turns a policy's logits into rows."""

    def __init__(self, tokenizer: ModelTokenizer, ids: Sequence[int], context: int, dense: np.ndarray):
        self.tokenizer, self.ids, self.context, self.dense = tokenizer, ids, context, dense
        stop = context + len(dense)
        self.next = np.append(ids[context + 1 : stop + 1], [NO_TOKEN])[: len(dense)].astype(np.int64)

    def compare(self, logits: np.ndarray) -> Divergence:
        """A policy's logits ``(positions, vocabulary)`` against the dense ones."""
        return divergence(self.dense[: len(logits)], logits, self.next[: len(logits)])

    def words(self, ids: Sequence[int]) -> list[str]:
        """Each token as it is written."""
        return [self.tokenizer.decode([one]) for one in ids]

    def rows(self, logits: np.ndarray) -> list[dict]:
        """Rows of `POSITION_SCHEMA` but for text, domain and policy."""
        columns = self.compare(logits).columns()
        columns["dense_top"], columns["sparse_top"] = (
            self.words(columns[name]) for name in ("dense_top", "sparse_top")
        )
        columns["token"] = self.words(self.ids[self.context : self.context + len(logits)])
        rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        for number, row in enumerate(rows):
            row["position"] = self.context + number
            for name in ("dense_nll", "sparse_nll"):
                row[name] = None if np.isnan(row[name]) else float(row[name])
        return rows


def ablate(
    begun: Continuation, policies: Policies, reader: TextReader, asked: Ablation, layers: Sequence[int]
) -> list[dict]:
    """The policy in one band of layers at a time, all other layers dense: rows of `ABLATION_SCHEMA`."""
    if asked.policy is None:
        return []
    rows, count = [], min(asked.positions, len(reader.dense))
    for first in range(0, len(layers), asked.band):
        chosen = layers[first : first + asked.band]
        dense = tuple(one for one in layers if one not in chosen)
        decoded = begun.decode(policies.make(asked.policy, dense_layers=dense), count)
        found = reader.compare(decoded.logits)
        read = decoded.traffic.layers().filter(pl.col("layer").is_in(chosen))["bytes_ratio_gqa"]
        rows.append(
            {
                "policy": asked.policy, "first_layer": chosen[0], "last_layer": chosen[-1], "kl": float(found.kl.mean()),
                "top1": float(found.agree.mean()), "positions": count, "bytes_ratio_gqa": float(read.mean()),
            }
        )  # fmt: skip
    return rows


def generate(begun: Continuation, policies: Policies, reader: TextReader, asked: Generation) -> list[dict]:
    """Greedy continuations of the same context, step by step: rows of `WRITING_SCHEMA`."""
    if not asked.tokens:
        return []
    return write_beside(begun, map(policies.make, asked.policies), reader.tokenizer, asked.tokens)
