"""Louver's recall table on captures: as its authors measured it, and again causal, with all that is read counted.

As published: of the middle layer, at random positions, all query heads look for their exact top-k keys by q.k among all keys of the
text, also those that come after the query, and the threshold that keys must reach is the exact k-th score. Fair: a query sees its own
past; thresholds are what a method could know; bounds count rounding; and Quest gets as many keys as Louver returned.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ghostkv.captures.capture_files import LayerCapture, read_layer
from ghostkv.captures.captured_texts import CapturedText, by_role, sketch_metadata
from ghostkv.files.io import stable_seed
from ghostkv.files.progress import progress
from ghostkv.files.tables import write_rows
from ghostkv.stages.reproduce.louver.indexes import (
    FAIR,
    KNOWN,
    PAGE,
    PUBLISHED,
    RecallAnswer,
    RecallAsked,
    RecallIndex,
    RecallLouver,
    RecallQuest,
)
from ghostkv.stages.reproduce.published import LOUVER
from ghostkv.stages.reproduce.schemas import RECALL_SCHEMA

if TYPE_CHECKING:
    from ghostkv.stages.reproduce.jobs import RecallTable

PROTOCOLS = {"published": PUBLISHED, "fair": FAIR}
_Measured = dict[tuple[str, str, int], list[tuple[float, float, float]]]


def recall_table(job: RecallTable, inputs: Mapping[str, Sequence[str]], outputs: Mapping[str, str]) -> None:
    """Write recall, candidates and bytes of every index by protocol, k and held-out text."""
    texts = by_role(job.captures, "held_out")["held_out"]
    rows: list[dict[str, Any]] = []
    for text in progress(texts, desc="texts", unit="text"):
        measured: _Measured = defaultdict(list)
        capture = _drawn(job, read_layer(text.folder, job.layer), text)
        for kv_head in range(capture.kv_heads):
            rng = np.random.default_rng(stable_seed(job.seed, text.text, kv_head))
            keys = capture.keys[kv_head].astype(np.float32)
            built = {one: one(keys, rng) for one in PUBLISHED}
            built |= {one: one(built[RecallLouver]) for one in KNOWN}
            for protocol, asked in _asked(job, capture, kv_head, keys):
                _measure(
                    measured, protocol, {one: built[one] for one in PROTOCOLS[protocol]}, asked, job.recall_at
                )
        rows += _rows(measured, {"text": text.text, "domain": text.domain, "layer": job.layer})
    write_rows(rows, outputs["recall"], RECALL_SCHEMA, sketch_metadata(texts, job.code))


def _drawn(job: RecallTable, capture: LayerCapture, text: CapturedText) -> LayerCapture:
    """Random queries of a text that see more keys than the largest k; all of them where there are fewer than asked for."""
    enough = np.flatnonzero(capture.positions + 1 - capture.first_visible() >= max(job.recall_at) + 10)
    if not len(enough):
        enough = np.arange(len(capture.positions))
    rng = np.random.default_rng(stable_seed(job.seed, text.text))
    return capture.at(np.sort(rng.choice(enough, min(job.recall_positions, len(enough)), replace=False)))


def _asked(
    job: RecallTable, capture: LayerCapture, kv_head: int, keys: np.ndarray
) -> Iterator[tuple[str, RecallAsked]]:
    """Every query of a KV head's group under both protocols."""
    first = capture.first_visible()
    for queries in capture.group_queries(kv_head):
        for number, query in enumerate(queries):
            scores = keys @ query
            about = {"scale": capture.scale, "sinks": job.sinks, "hot": job.hot}
            yield "published", RecallAsked(query, scores, 0, len(keys), fair=False, **about)
            start, stop = int(first[number]), int(capture.positions[number]) + 1
            past = np.full_like(scores, -np.inf)
            past[start:stop] = scores[start:stop]
            yield "fair", RecallAsked(query, past, start, stop, fair=True, **about)


def _measure(
    measured: _Measured,
    protocol: str,
    indexes: Mapping[type[RecallIndex], RecallIndex],
    asked: RecallAsked,
    ks: Sequence[int],
) -> None:
    for k in ks:
        wanted, candidates = asked.ordered[:k], 0
        for kind, index in indexes.items():
            found = index.returned(asked, k)
            if kind is RecallLouver:
                candidates = len(found.keys)
            if kind is RecallQuest and asked.fair:
                found = index.pages(asked, max(1, round(candidates / PAGE)))
            marks = np.zeros(len(asked.scores), bool)
            marks[found.keys] = True
            recall = marks[wanted].mean()
            measured[protocol, kind.name, k].append(
                (recall, len(found.keys) / asked.count, _bytes(index, asked, found))
            )


def _bytes(index: RecallIndex, asked: RecallAsked, found: RecallAnswer) -> float:
    """Of the index, of K that is read and of V that is returned, over K and V of all keys; values as wide as keys."""
    vectors = max(found.looked, len(found.keys)) + len(found.keys)
    return (found.index_bytes + vectors * index.vector_bytes) / (2 * asked.count * index.vector_bytes)


def _rows(measured: _Measured, about: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for (protocol, method, k), found in measured.items():
        recall, candidates, bytes_ratio = np.mean(found, axis=0)
        theirs = LOUVER.get(method, {}).get(k) if protocol == "published" else None
        row = {"protocol": protocol, "method": method, "k": k, "queries": len(found), "theirs": theirs}
        yield {**about, **row, "recall": recall, "candidates": candidates, "bytes_ratio": bytes_ratio}
