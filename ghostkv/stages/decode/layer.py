"""Decode: the life of every token over a trace, step by step, and what it reads, moves and loses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ghostkv.captures.capture_files import LayerCapture, capture_metadata, read_layer
from ghostkv.codecs import Codec, Records
from ghostkv.codecs.records import load_codecs
from ghostkv.elimination.thresholds import calibrated_thetas
from ghostkv.files import provenance
from ghostkv.files.progress import progress
from ghostkv.files.tables import Tables
from ghostkv.stages.decode import lifecycle
from ghostkv.stages.decode.buffer import buffer_rows, top_requests
from ghostkv.stages.decode.on_disk import run_store
from ghostkv.stages.decode.schemas import SCHEMAS
from ghostkv.stages.decode.steps import LOSSES, Decided, ReadRule, decide
from ghostkv.stages.decode.tables import (
    CEILING,
    Sizes,
    budget_row,
    ceiling_measures,
    loss_step_rows,
    spread_rows,
    step_measures,
    step_rows,
)

if TYPE_CHECKING:
    from ghostkv.stages.decode.jobs import DecodeLayer, Lives

# Bytes of a number in the cache.
_NUMBER = 2


def measure_layer(job: DecodeLayer, inputs: Mapping[str, str], outputs: Mapping[str, str]) -> None:
    """Decode one layer of the trace under every policy; the layer that is `stored` through a real store as well.

    Of the inputs, `layers` is a file of the capture folder of consecutive queries, `points` the frontier's table. The
    store lies beside the outputs, and is removed. Raises TableError where the frontier has no calibrated threshold of
    that kind.
    """
    trace, spec = Path(inputs["layers"]).parent, job.headline
    capture = read_layer(trace, job.layer)
    codecs = load_codecs(inputs["codecs"], [spec])
    goal = job.rule, "fer", job.target
    thetas = calibrated_thetas(inputs["points"], spec, *goal, job.layer)[job.layer]
    stored = job.stored and capture.values is not None
    tables = Tables(SCHEMAS)
    decodes = _Decodes(job, {"source": "trace", "layer": job.layer}, tables)
    steps, records, reads, archived = len(capture.positions), [], [], []
    passes = sum(decodes.passes(kv_head, capture.kv_heads) for kv_head in range(capture.kv_heads)) + stored
    with progress(total=steps * passes, desc=f"layer {job.layer}", unit="step") as bar:
        for kv_head in range(capture.kv_heads):
            codec = codecs[spec, kv_head]
            records.append(codec.encode(capture.keys[kv_head]))
            own = slice(kv_head * capture.group, (kv_head + 1) * capture.group)
            found, origin = decodes.add(capture, kv_head, codec, records[-1], thetas[own], bar.update)
            reads.append(found.reads)
            archived.append(origin[job.store_policy] == lifecycle.ARCHIVE)
        if stored:
            folder = Path(outputs["store"]).parent / ".decoded_store"
            rows = run_store(
                folder, capture, records, reads, archived, job.block_every, job.segment, bar.update
            )
            tables.add_rows(
                "store", [{"layer": job.layer, "policy": job.store_policy, **row} for row in rows]
            )
    tables.write(outputs, capture_metadata(trace) | provenance.metadata(job.code))


@dataclass
class _Decodes:
    """One layer decoded head by head, and where its rows go."""

    job: Lives
    about: Mapping
    tables: Tables

    def add(
        self, capture: LayerCapture, kv_head: int, codec: Codec, records: Records, theta: np.ndarray, tick
    ) -> tuple[Decided, dict[str, np.ndarray]]:
        """Decode one KV head and live its reads under every policy; also the state in which each read found its key."""
        job, tokens = self.job, capture.tokens
        policy = ReadRule(job.rule, job.sinks, job.hot, job.top_k, job.decay)
        found = decide(capture, kv_head, codec, records, theta, policy, asked=sorted(job.requests), tick=tick)
        values = 0 if capture.values is None else capture.values.shape[2]
        sizes = Sizes(_NUMBER * (capture.keys.shape[2] + values), codec.record_bytes)
        origin, swept = {}, self._swept(kv_head, capture.kv_heads)
        for share in self._budgets(swept):
            slots = int(share * tokens)
            for name, measures, came in self._lives(found.reads, slots, sizes):
                tick(len(capture.positions))
                about = {**self.about, "kv_head": kv_head, "policy": name}
                if share == job.warm:
                    self.tables.add_rows("spread", spread_rows(about, measures))
                    self.tables.add_rows("steps", step_rows(about, measures, job.bin))
                    origin[name] = came
                if swept:
                    about["budget"] = share
                    self.tables.add_rows("budgets", [budget_row(about, measures, slots, sizes.pair)])
        self._buffers(found, kv_head, bool(swept))
        for head, losses in enumerate(found.losses):
            about = {**self.about, "head": kv_head * capture.group + head}
            losses = dict(zip(LOSSES, losses.T, strict=True))
            self.tables.add_rows("losses", spread_rows(about, losses))
            self.tables.add_rows("loss_steps", loss_step_rows(about, losses, job.bin))
        return found, origin

    def _buffers(self, found: Decided, kv_head: int, bounded: bool) -> None:
        """The hot buffer under requests of survivors, and of the best so many rows; the KV heads that live through all budgets
        are `bounded`."""
        about = {**self.about, "kv_head": kv_head}
        lived = {None: found.reads}
        for least, asked in enumerate(reversed(sorted(self.job.requests)), start=1):
            lived[asked] = top_requests(found.levels, least, found.reads.visible)
        for asked, reads in lived.items():
            self.tables.add_rows("buffers", buffer_rows(about, reads, asked, self.job.buffers, bounded))

    def passes(self, kv_head: int, kv_heads: int) -> int:
        """How often `add` goes through all steps: once to decide, then for every policy and the ceiling at every budget."""
        return 1 + len(self._budgets(self._swept(kv_head, kv_heads))) * (len(lifecycle.POLICIES) + 1)

    def _swept(self, kv_head: int, kv_heads: int) -> bool:
        """Whether a KV head lives through all budgets: other ones in other layers, so that few speak for all places."""
        return (kv_head - self.about["layer"]) % kv_heads < self.job.budget_heads

    def _budgets(self, swept: bool) -> list[float]:
        return sorted({self.job.warm, *(self.job.budgets if swept else ())})

    def _lives(
        self, reads: lifecycle.StepReads, slots: int, sizes: Sizes
    ) -> Iterator[tuple[str, dict, np.ndarray | None]]:
        """Name, measures and origin of reads of every policy with so many warm slots; then of the ceiling."""
        job = self.job
        capacity = lifecycle.Capacity(slots, int(job.ghost * reads.tokens), job.batch, job.window)
        for name in lifecycle.POLICIES:
            life = lifecycle.live(reads, name, capacity, job.decay)
            measures = step_measures(life, reads, sizes, name)
            yield name, measures, life.origin
        start = lifecycle.prefilled(reads.visible, capacity)
        hits = lifecycle.ceiling(reads, slots, start == lifecycle.WARM)
        near = lifecycle.ceiling(
            reads, slots + capacity.ghost, (start == lifecycle.WARM) | (start == lifecycle.GHOST)
        )
        yield CEILING, ceiling_measures(measures, hits, near), None
