"""Stage `speed`: one decode step of a layer, dense and under elimination, in turns in one process."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from ghostkv.captures.capture_files import read_layer
from ghostkv.captures.captured_texts import by_role, sketch_metadata
from ghostkv.codecs import Records
from ghostkv.codecs.base import RHO_BYTES
from ghostkv.files.io import stable_seed
from ghostkv.files.tables import write_rows
from ghostkv.runtime.fused_records import RecordFrames
from ghostkv.runtime.packed_attention import PackedAttention
from ghostkv.runtime.packed_parts import (
    CANDIDATES,
    HEADS,
    SURVIVORS,
    PackedCache,
    PackedRecords,
    PackedRule,
    Place,
)
from ghostkv.runtime.packed_records import packed, packed_frames
from ghostkv.runtime.packed_reference import bfloat16_of, reference_step
from ghostkv.stages.speed.limits import Copy, arithmetic
from ghostkv.stages.speed.schemas import LAYER_SCHEMA
from ghostkv.stages.speed.timed_layer import TimedLayer, captured_layer, generated_layer, spectrum_of

if TYPE_CHECKING:
    from ghostkv.stages.speed.jobs import TimeLayers

_HALF = 2
# Ways of torch that take so many times the processor time of the fastest in a first try are not timed on.
_SLOW = 2.5
# Seconds before each timing: threads of torch's last call wait for work on a core of their own, for some milliseconds.
_REST = 0.03
# Keys of the step that wakes a way's threads right before it is timed, as the layer before would have.
_WAKING = 256
# Queries of a row whose survivors are held against float64.
_CHECKED = 2
# Halvings of the range that theta is looked for in; below the least nothing is eliminated that could matter.
_HALVINGS, _THETAS = 14, (-30.0, 0.0)


def time_layers(
    job: TimeLayers, inputs: Mapping[str, Sequence[str]], outputs: Mapping[str, str], threads: int = 1
) -> None:
    """Time every shape at every context and number of threads; a row each.

    Raises
    ------
    ConfigError
        No capture has the role `codec` or `held_out`.
    """
    rows = []
    with ThreadPoolExecutor(max(job.thread_counts)) as pool:
        for given in _given(job):
            layer = _Layer.of(given, job)
            theta = layer.theta(max(job.thread_counts))
            for count in job.thread_counts:
                rows.append(layer.timed(theta, count, pool))
                done = rows[-1]
                print(
                    f"{given.name}, {done['tokens']} tokens, {count} threads: {done['ratio']:.2f}x, "
                    f"{done['survivors']:.1%} survive",
                    flush=True,
                )
    write_rows(rows, outputs["layers"], LAYER_SCHEMA, sketch_metadata(job.captures, job.code))


def _given(job: TimeLayers) -> Iterator[TimedLayer]:
    texts = by_role(job.captures, "codec", "held_out")
    calibration = [read_layer(text.folder, job.layer) for text in texts["codec"]]
    text = read_layer(texts["held_out"][0].folder, job.layer)
    if text.values is not None and not text.softcap and not text.keys.shape[2] % 16:
        yield captured_layer(calibration, text, job.bits, job.hot)
    spectrum = spectrum_of(text)
    for shape in job.shapes:
        for tokens in shape.contexts:
            seed = stable_seed(job.seed, shape.name, tokens)
            yield generated_layer(shape, tokens, spectrum, job.bits, 2 * job.queries, seed)


@dataclass(frozen=True)
class _Layer:
    """A layer with its records, and the theta that keeps the output error."""

    given: TimedLayer
    job: TimeLayers
    records: list[Records]
    frames: object
    packed: PackedRecords
    cache: PackedCache
    exact: np.ndarray  # float32 [queries, heads, value_dim]
    # Seconds of the fastest dense way on the clock, and of the cheapest in processor time, at each number of threads so far
    dense: list[tuple[float, float]] = field(default_factory=list)

    @classmethod
    def of(cls, given: TimedLayer, job: TimeLayers) -> _Layer:
        written = [given.codecs[kv].encode(given.keys[kv]) for kv in range(given.texts)]
        records = [written[kv % given.texts] for kv in range(len(given.keys))]
        codes, rho = packed(records, given.codecs[0].code_bytes // 4)
        tokens = given.keys.shape[1]
        start = min(job.sinks, tokens)
        cold = slice(start, max(tokens - job.hot, start))
        total = given.values[: given.texts, cold].sum(axis=1, dtype=np.float64)
        total = np.ascontiguousarray(np.resize(total, (len(given.keys), total.shape[1])))
        cache = PackedCache(bfloat16_of(given.keys), bfloat16_of(given.values))
        frames = packed_frames(RecordFrames.of(given.codecs))
        return cls(given, job, records, frames, PackedRecords(codes, rho, total), cache, _dense(given))

    def rule(self, theta: float) -> PackedRule:
        thetas = np.full(self.given.queries.shape[1], theta)
        return PackedRule(thetas, self.given.scale, 0.0, True)

    def place(self, tokens: int) -> Place:
        """What the query of the last of so many tokens sees."""
        return Place.of(0, tokens, self.job.sinks, self.job.hot)

    @property
    def all(self) -> Place:
        """What a query sees of the whole layer."""
        return self.place(self.given.keys.shape[1])

    def error(self, attention: PackedAttention, theta: float, which: slice) -> float:
        """Mean relative error of the output over some of the queries and all heads."""
        found = []
        for query, exact in zip(self.given.queries[which], self.exact[which], strict=True):
            out, _ = attention.step(query, self.cache, self.packed, self.rule(theta), self.all)
            found.append(np.linalg.norm(out - exact, axis=1) / np.linalg.norm(exact, axis=1))
        return float(np.mean(found))

    def attention(self, threads: int) -> PackedAttention:
        return PackedAttention(self.frames, threads)

    @property
    def chosen_on(self) -> int:
        """Queries that choose theta; the others are measured, and one that is alone is both."""
        return max(1, len(self.given.queries) // 2)

    def theta(self, threads: int) -> float:
        """The largest theta, to a step of the halving, whose output error stays below what the job allows."""
        attention, which = self.attention(threads), slice(0, self.chosen_on)
        low, high = _THETAS
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            small = self.error(attention, middle, which) <= self.job.output_error
            low, high = (middle, high) if small else (low, middle)
        return low

    def timed(self, theta: float, threads: int, pool: ThreadPoolExecutor) -> dict:
        """A row of the table."""
        given, job = self.given, self.job
        attention = self.attention(threads)
        measured = slice(min(self.chosen_on, len(given.queries) - 1), None)
        error = self.error(attention, theta, measured)
        row = {"shape": given.name, "source": given.source, "headline": given.name == job.headline_shape}
        row |= {"heads": given.queries.shape[1], "kv_heads": len(given.keys), "head_dim": given.keys.shape[2]}
        row |= {"tokens": given.keys.shape[1], "threads": threads, "rounds": job.rounds, "theta": theta}
        row |= {"code_bytes": given.codecs[0].code_bytes, "output_error": error}
        row |= self._counted(attention, theta, measured)
        return row | self._seconds(attention, theta, threads, pool, row)

    def _counted(self, attention: PackedAttention, theta: float, which: slice) -> dict:
        """Shares of the cold keys, bytes, and whether float64 lets the same keys survive."""
        given, job, rule = self.given, self.job, self.rule(theta)
        kv_heads, tokens, width = given.keys.shape
        cold = max(tokens - job.sinks - job.hot, 0)
        counts, equal = [], True
        for query in given.queries[which]:
            counts.append(attention.step(query, self.cache, self.packed, rule, self.all)[1][:, :HEADS])
            group = len(query) // kv_heads
            if len(counts) > _CHECKED:
                continue
            # KV heads that differ in their queries alone are checked on the first.
            few = slice(0, given.texts)
            cache = PackedCache(*(one[few] for one in self.cache))
            some = rule._replace(theta=rule.theta[: given.texts * group])
            few = query[: given.texts * group]
            want = reference_step(few, cache, given.codecs, self.records[: given.texts], some, self.all)[1]
            equal &= all(np.array_equal(attention.survivors(kv), one) for kv, one in enumerate(want))
        mean = np.mean(counts, axis=(0, 1))
        row = _HALF * (width + given.values.shape[2])
        exact = tokens - cold
        records = cold * (given.codecs[0].code_bytes + RHO_BYTES)
        return {
            "candidates": mean[CANDIDATES] / max(cold, 1),
            "survivors": mean[SURVIVORS] / max(cold, 1),
            "queries": len(counts),
            "survivors_equal": equal,
            "counted_bytes": kv_heads * (records + row * (exact + mean[SURVIVORS])),
            "dense_bytes": float(kv_heads * row * tokens),
        }

    def _short_dense(self, query: np.ndarray) -> Callable:
        from ghostkv.runtime.dense_attention import dense_ways

        keys, values = (
            np.ascontiguousarray(one[:, :_WAKING]) for one in (self.given.keys, self.given.values)
        )
        return next(iter(dense_ways(query, keys, values, self.given.scale).values()))

    def _short_step(self, query: np.ndarray, theta: float, threads: int) -> Callable:
        attention = self.attention(threads)
        cache = PackedCache(*(np.ascontiguousarray(one[:, :_WAKING]) for one in self.cache))
        records = [one[:_WAKING] for one in self.records]
        few = PackedRecords(*packed(records, self.given.codecs[0].code_bytes // 4), self.packed.total)
        return lambda: attention.step(query, cache, few, self.rule(theta), self.place(_WAKING))

    def _seconds(
        self, attention: PackedAttention, theta: float, threads: int, pool: ThreadPoolExecutor, row: Mapping
    ) -> dict:
        from ghostkv.runtime.dense_attention import dense_ways, set_threads

        given, query = self.given, self.given.queries[-1]
        wide = PackedCache(given.keys, given.values)
        ways: dict[str, Callable] = dense_ways(query, given.keys, given.values, given.scale)
        dense = list(ways)
        ways["ghost"] = lambda: attention.step(query, self.cache, self.packed, self.rule(theta), self.all)
        ways["ghost_float32"] = lambda: attention.step(query, wide, self.packed, self.rule(theta), self.all)
        ways["scan"] = lambda: attention.step(query, self.cache, self.packed, self.rule(np.inf), self.all)
        copy = Copy(threads, pool)
        alone = arithmetic(
            self.frames, self.packed.codes[0], self.packed.rho[0], len(query) // len(given.keys)
        )
        set_threads(threads)
        # The first call of a way also makes what it keeps; so the second look is closer.
        for near in (2 * _SLOW, _SLOW):
            tried = {name: _spent(ways[name])[1] for name in dense}
            left_out = {name for name in dense if tried[name] > near * min(tried.values())}
            dense = [name for name in dense if name not in left_out]
            ways = {name: way for name, way in ways.items() if name not in left_out}
        for once in (*(way for name, way in ways.items() if name not in dense), copy.rate, alone):
            once()
        wake = {True: self._short_dense(query), False: self._short_step(query, theta, threads)}
        for one in wake.values():
            one()
        clock, cpu = ({name: np.empty(self.job.rounds) for name in ways} for _ in range(2))
        rates, bare = np.empty(self.job.rounds), np.empty(self.job.rounds)
        for turn in range(self.job.rounds):
            for name, way in ways.items():
                time.sleep(_REST)
                wake[name in dense]()
                clock[name][turn], cpu[name][turn] = _spent(way)
            time.sleep(_REST)
            rates[turn], bare[turn] = copy.rate(), alone()
        # Whatever else the machine does only adds to a time.
        least = {name: float(times.min()) for name, times in clock.items()}
        spent = {name: float(times.min()) for name, times in cpu.items()}
        fastest = min(dense, key=least.get)
        # Fewer threads are torch's to choose too: on a busy machine they may be faster.
        self.dense.append((least[fastest], min(spent[name] for name in dense)))
        dense_seconds, dense_cpu = (min(times) for times in zip(*self.dense, strict=True))
        kv_heads, tokens, _ = given.keys.shape
        rate, arithmetic_ = float(rates.max()), float(bare.min()) * kv_heads * tokens / threads
        read = kv_heads * tokens * (row["code_bytes"] + RHO_BYTES)
        dense_read = row["dense_bytes"] * (2 if fastest.startswith("float32") else 1)
        found = {
            f"{kind}_seconds": min((least[name] for name in dense if name.startswith(kind)), default=None)
            for kind in ("float32", "bfloat16")
        }
        return found | {
            **{f"{name}_seconds": least[name] for name in ("ghost", "ghost_float32", "scan")},
            "dense_seconds": dense_seconds,
            "ratio": dense_seconds / least["ghost"],
            "dense_cpu_seconds": dense_cpu,
            "ghost_cpu_seconds": spent["ghost"],
            "cpu_ratio": dense_cpu / spent["ghost"],
            "copy_gb_s": rate,
            "arithmetic_seconds": arithmetic_,
            "ghost_copy_share": row["counted_bytes"] / 1e9 / least["ghost"] / rate,
            "dense_copy_share": dense_read / 1e9 / least[fastest] / rate,
            "scan_limit_share": max(read / 1e9 / rate, arithmetic_) / least["scan"],
        }


def _spent(way: Callable) -> tuple[float, float]:
    """Seconds on the clock and of processor time of all threads that a call takes."""
    before, spent = time.perf_counter(), time.process_time()
    way()
    return time.perf_counter() - before, time.process_time() - spent


def _dense(given: TimedLayer) -> np.ndarray:
    """Exact outputs of all queries, summed in float64, float32 [queries, heads, value_dim]."""
    count, heads, width = given.queries.shape
    group = heads // len(given.keys)
    out = np.empty((count, heads, given.values.shape[2]), np.float32)
    for kv in range(len(given.keys)):
        own = slice(kv * group, (kv + 1) * group)
        asked = given.queries[:, own].reshape(-1, width)
        scores = (asked @ given.keys[kv].T * np.float32(given.scale)).astype(np.float64)
        weights = np.exp(scores - scores.max(axis=1, keepdims=True))
        weights /= weights.sum(axis=1, keepdims=True)
        out[:, own] = (weights.astype(np.float32) @ given.values[kv]).reshape(count, group, -1)
    return out
