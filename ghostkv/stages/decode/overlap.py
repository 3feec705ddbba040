"""A decode step over a hot buffer and a real store, timed: reads one after another, by many threads, and while hits are attended."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ghostkv.captures.capture_files import LayerCapture, capture_metadata, read_layer
from ghostkv.codecs.records import load_codecs
from ghostkv.elimination.attention import cap, softmax
from ghostkv.elimination.thresholds import calibrated_thetas
from ghostkv.files import provenance
from ghostkv.files.progress import progress
from ghostkv.files.scratch import scratch_folder
from ghostkv.files.tables import write_rows
from ghostkv.runtime.disk_attention import DiskAttention
from ghostkv.runtime.row_buffer import RowBuffer
from ghostkv.stages.decode.lifecycle import StepReads
from ghostkv.stages.decode.on_disk import Device
from ghostkv.stages.decode.schemas import OVERLAP_SCHEMA
from ghostkv.stages.decode.steps import ReadRule, decide
from ghostkv.store import GhostStore, StoreShape
from ghostkv.store.layout import PAGE
from ghostkv.store.pending import Rooms, Runs, read_runs
from ghostkv.store.plan import runs_of

if TYPE_CHECKING:
    from ghostkv.stages.decode.jobs import TimeOverlap


def time_overlap(job: TimeOverlap, inputs: Mapping[str, str], outputs: Mapping[str, str]) -> None:
    """Time steps of one layer; inputs as in `measure_layer`. Without captured values there is nothing to time."""
    trace = Path(inputs["layers"]).parent
    capture = _last(read_layer(trace, job.layer), job.overlap.steps)
    rows = []
    if capture.values is not None:
        # A sliding window leaves the sinks behind.
        sinks, hot = (0, min(job.hot, capture.window)) if capture.window else (job.sinks, job.hot)
        reads = _reads(job, inputs, capture, sinks, hot)
        with scratch_folder(Path(outputs["overlap"]).parent, "overlap") as folder:
            rows = list(overlap_rows(folder, capture, reads, job, sinks, hot))
    about = capture_metadata(trace) | provenance.metadata(job.code)
    write_rows(rows, outputs["overlap"], OVERLAP_SCHEMA, about)


def _last(capture: LayerCapture, steps: int) -> LayerCapture:
    return replace(
        capture, queries=capture.queries[:, -steps:], outputs=None, positions=capture.positions[-steps:]
    )


def _reads(
    job: TimeOverlap, inputs: Mapping[str, str], capture: LayerCapture, sinks: int, hot: int
) -> list[StepReads]:
    """Survivors of every step, for each KV head."""
    codecs = load_codecs(inputs["codecs"], [job.headline])
    thetas = calibrated_thetas(inputs["points"], job.headline, job.rule, "fer", job.target, job.layer)
    keys, found = replace(capture, values=None), []
    for kv_head in range(capture.kv_heads):
        codec = codecs[job.headline, kv_head]
        theta = thetas[job.layer][kv_head * capture.group : (kv_head + 1) * capture.group]
        rule = ReadRule(job.rule, sinks, hot, job.top_k, job.decay)
        found.append(decide(keys, kv_head, codec, codec.encode(capture.keys[kv_head]), theta, rule).reads)
    return found


def overlap_rows(
    folder: Path, capture: LayerCapture, reads: Sequence[StepReads], job: TimeOverlap, sinks: int, hot: int
) -> Iterator[dict]:
    """Live through the steps once for each size of the buffer and time some of them; columns of `OVERLAP_SCHEMA`."""
    options, width, value_dim = job.overlap, capture.keys.shape[2], capture.values.shape[2]
    shape = StoreShape(
        1, capture.kv_heads, width, value_dim, dtype=str(capture.keys.dtype), segment_tokens=job.segment
    )
    steps, first = len(capture.positions), int(capture.positions[0])
    with GhostStore.create(folder / "store", shape) as store, ThreadPoolExecutor(options.threads) as pool:
        store.append(*(part.transpose(1, 0, 2)[:, None] for part in (capture.keys, capture.values)))
        # What is still to be written would be written by the first read past the page cache.
        store.sync()
        direct = Device.under(store.file).direct
        sources = {"device": True, "page cache": False} if direct else {"page cache": False}
        with progress(total=steps * len(options.buffers), desc="overlap", unit="step") as bar:
            for rows in options.buffers:
                buffer = RowBuffer((capture.kv_heads, width, value_dim), sinks, hot, rows)
                buffer.append(capture.keys[:, :first], capture.values[:, :first])
                turn = _Turns(store, buffer, capture, options.threads, options.rounds, pool)
                for step in range(steps):
                    new = slice(first + step, first + step + 1)
                    buffer.append(capture.keys[:, new], capture.values[:, new])
                    asked = capture.queries[:, step], _survivors(reads, step)
                    if step % options.every == options.every - 1:
                        for source, past_cache in sources.items():
                            about = {"layer": job.layer, "source": source, "buffer": rows, "step": step}
                            yield about | {"threads": options.threads} | turn.timed(*asked, past_cache)
                    turn.live(*asked)
                    bar.update(1)


def _survivors(reads: Sequence[StepReads], step: int) -> list[np.ndarray]:
    return [one.keys[one.ends[step - 1] if step else 0 : one.ends[step]].astype(np.int64) for one in reads]


@dataclass(frozen=True)
class _Turns:
    """All ways of one step, taking turns."""

    store: GhostStore
    buffer: RowBuffer
    capture: LayerCapture
    threads: int
    rounds: int
    pool: ThreadPoolExecutor

    def _layer(self, threads: int, direct: bool) -> DiskAttention:
        capture = self.capture
        return DiskAttention(
            self.store, 0, self.buffer, capture.scale, capture.softcap, threads=threads, direct=direct
        )

    def live(self, queries: np.ndarray, survivors: Sequence[np.ndarray]) -> None:
        """The step as it is lived, so that the next finds the buffer as LRU leaves it."""
        layer = self._layer(self.threads, False)
        layer.keep(layer.attend(queries, survivors))

    def timed(self, queries: np.ndarray, survivors: Sequence[np.ndarray], direct: bool) -> dict:
        """Least seconds of every way and of its limits; nothing is kept."""
        layer, alone = self._layer(self.threads, direct), self._layer(1, direct)
        step = layer.attend(queries, survivors)
        hits, missed = ([one[part] for one in step.rows] for part in (0, 1))
        where = 0, np.repeat(np.arange(len(missed)), [len(one) for one in missed]), np.concatenate(missed)
        held = len(self.buffer.exact()) * len(missed) + sum(map(len, hits))
        attended = np.zeros((held + step.misses, 2 * self.buffer.keys.shape[2]), np.float32)
        into = np.ones_like(attended)
        ways: dict[str, Callable[[], object]] = {
            "serial": lambda: alone.attend(queries, survivors, overlap=False),
            "apart": lambda: layer.attend(queries, survivors, overlap=False),
            "overlapped": lambda: layer.attend(queries, survivors),
            "held": lambda: layer.attend(queries, hits),
            "copy": lambda: np.copyto(into, attended),
        }
        offsets = self.store.offsets(*where)
        first, counts, reads = runs_of(offsets[offsets >= 0], self.store.shape.row_bytes, PAGE, 0)
        descriptor = os.open(self.store.file, os.O_RDONLY | (os.O_DIRECT if direct else 0))
        try:
            if reads.requests:
                ways |= self._limits(descriptor, first, counts)
                ways["read"] = lambda: self.store.begin(*where, direct=direct, threads=self.threads).result()
            seconds = _least(ways, self.rounds)
        finally:
            os.close(descriptor)
        row = {"held": held, "misses": step.misses, "requests": reads.requests, "read_bytes": reads.bytes}
        row["error"] = self._error(queries, survivors, step.out)
        return row | {f"{name}_seconds": spent for name, spent in seconds.items()}

    def _limits(
        self, descriptor: int, first: np.ndarray, counts: np.ndarray
    ) -> dict[str, Callable[[], object]]:
        """What the source itself takes: for these runs of blocks by as many threads, for as much in one piece, and for a block."""
        runs = Runs.of(first, counts, PAGE, Rooms())
        one = np.zeros(1, np.int64)
        whole = Runs.of(one, counts.sum(keepdims=True), PAGE, Rooms())
        block = Runs.of(first[-1:], one + 1, PAGE, Rooms())
        return {
            "device": lambda: self._bare(descriptor, runs),
            "stream": lambda: read_runs(descriptor, whole, range(1)),
            "block": lambda: read_runs(descriptor, block, range(1)),
        }

    def _error(self, queries: np.ndarray, survivors: Sequence[np.ndarray], out: np.ndarray) -> float:
        """Largest relative difference of a head's output from attention over the captured rows, in one piece and in float64."""
        capture, tokens, worst = self.capture, self.buffer.tokens, 0.0
        hot = np.arange(max(tokens - self.buffer.hot, self.buffer.sinks), tokens)
        for head, query in enumerate(queries.astype(np.float64)):
            kv_head = head // capture.group
            read = np.concatenate([np.arange(self.buffer.sinks), survivors[kv_head], hot])
            scores = cap(
                capture.scale * capture.keys[kv_head, read].astype(np.float64) @ query, capture.softcap
            )
            exact = softmax(scores)[0] @ capture.values[kv_head, read].astype(np.float64)
            worst = max(worst, float(np.linalg.norm(out[head] - exact) / np.linalg.norm(exact)))
        return worst

    def _bare(self, descriptor: int, runs: Runs) -> None:
        """The same blocks by as many threads, without the store."""
        waiting = [self.pool.submit(read_runs, descriptor, runs, part) for part in runs.parts(self.threads)]
        for one in waiting:
            one.result()


def _least(ways: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Least seconds of each way; each round begins with another one."""
    names, seconds = list(ways), dict.fromkeys(ways, np.inf)
    for turn in range(rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            before = time.perf_counter()
            ways[name]()
            seconds[name] = min(seconds[name], time.perf_counter() - before)
    return seconds
