"""Decode: the life of every token over a trace, step by step, and what it reads, moves and loses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl

from ghostkv.captures.capture_files import LayerCapture, capture_metadata, read_layer
from ghostkv.codecs import Codec, Records
from ghostkv.codecs.records import CodecSpec, load_codecs
from ghostkv.elimination.frontier import (
    Grid,
    Setting,
)
from ghostkv.files.errors import TableError
from ghostkv.files.io import read_table, write_table
from ghostkv.files.logs import progress
from ghostkv.files.tables import table_of
from ghostkv.stages.decode.lifecycle import (
    ARCHIVE,
    GHOST,
    POLICIES,
    WARM,
    Capacity,
    StepReads,
    ceiling,
    live,
    prefilled,
)
from ghostkv.stages.decode.on_disk import Archive, run_store
from ghostkv.stages.decode.steps import LOSSES, Decided, ReadRule, decide
from ghostkv.stages.decode.tables import (
    CEILING,
    SCHEMAS,
    Sizes,
    budget_row,
    ceiling_measures,
    loss_step_rows,
    spread_rows,
    step_measures,
    step_rows,
)

# Bytes of a number in the cache.
_NUMBER = 2


def measure_layer(inputs: Mapping[str, str], layer: int, params: Mapping, outputs: Mapping[str, str]) -> None:
    """Decode one layer of the trace under every policy; the layer `store_layer` through a real store as well.

    Parameters
    ----------
    inputs : mapping
        `trace`, a capture folder of consecutive queries; `codecs` of the layer; `points`, the frontier's table.
    layer : int
    params : mapping
        The config section `decode`; of frontier `sinks`, `hot`, `top_k` and `headline`; `target_metric` and `target`
        that thresholds were chosen for; `store_layer`; `code`.
    outputs : mapping
        Paths of the tables of `SCHEMAS`; the store itself lies beside them, and is removed.

    Raises
    ------
    TableError
        The frontier has no calibrated threshold of that kind, or a file cannot be read.
    """
    capture, spec = read_layer(inputs["trace"], layer), _spec(params)
    codecs = load_codecs(inputs["codecs"], [spec])
    thetas = _thetas(inputs["points"], layer, params)
    stored = layer == params["store_layer"] and capture.values is not None
    tables = _Tables(params, {"source": "trace", "layer": layer})
    steps, records, reads, archived = len(capture.positions), [], [], []
    passes = sum(tables.passes(kv_head, capture.kv_heads) for kv_head in range(capture.kv_heads)) + stored
    with progress(total=steps * passes, desc=f"layer {layer}", unit="step") as bar:
        for kv_head in range(capture.kv_heads):
            codec = codecs[spec, kv_head]
            records.append(codec.encode(capture.keys[kv_head]))
            own = slice(kv_head * capture.group, (kv_head + 1) * capture.group)
            found, origin = tables.add(capture, kv_head, codec, records[-1], thetas[own], bar.update)
            reads.append(found.reads)
            archived.append(origin[params["store_policy"]] == ARCHIVE)
        if stored:
            folder = Path(outputs["store"]).parent / ".decoded_store"
            archive = Archive(params["store_policy"], archived)
            rows = run_store(
                folder, capture, records, reads, archive, params["block_every"], params["segment"], bar.update
            )
            tables.rows["store"] += [{"layer": layer, **row} for row in rows]
    kept = {k: v for k, v in capture_metadata(inputs["trace"]).items() if k != "fingerprint"}
    tables.write(outputs, kept | {"fingerprint": str(params.get("code", ""))})


@dataclass
class _Tables:
    """Rows of one layer, collected head by head."""

    params: Mapping
    about: Mapping
    rows: dict[str, list[dict]] | None = field(default=None)

    def __post_init__(self) -> None:
        self.rows = self.rows or {name: [] for name in SCHEMAS}

    def add(
        self, capture: LayerCapture, kv_head: int, codec: Codec, records: Records, theta: np.ndarray, tick
    ) -> tuple[Decided, dict[str, np.ndarray]]:
        """Decode one KV head and live its reads under every policy; also the state in which each read found its key."""
        params, tokens = self.params, capture.tokens
        policy = ReadRule(
            params["headline"]["rule"], params["sinks"], params["hot"], params["top_k"], params["decay"]
        )
        found = decide(capture, kv_head, codec, records, theta, policy, tick=tick)
        values = 0 if capture.values is None else capture.values.shape[2]
        sizes = Sizes(_NUMBER * (capture.keys.shape[2] + values), codec.record_bytes)
        origin, swept = {}, self._swept(kv_head, capture.kv_heads)
        for share in self._budgets(swept):
            slots = int(share * tokens)
            for name, measures, came in self._lives(found.reads, slots, sizes):
                tick(len(capture.positions))
                about = {**self.about, "kv_head": kv_head, "policy": name}
                if share == params["warm"]:
                    self.rows["spread"] += spread_rows(about, measures)
                    self.rows["steps"] += step_rows(about, measures, params["bin"])
                    origin[name] = came
                if swept:
                    about["budget"] = share
                    self.rows["budgets"].append(budget_row(about, measures, slots, sizes.pair))
        for head, losses in enumerate(found.losses):
            about = {**self.about, "head": kv_head * capture.group + head}
            losses = dict(zip(LOSSES, losses.T, strict=True))
            self.rows["losses"] += spread_rows(about, losses)
            self.rows["loss_steps"] += loss_step_rows(about, losses, params["bin"])
        return found, origin

    def passes(self, kv_head: int, kv_heads: int) -> int:
        """How often `add` goes through all steps: once to decide, then for every policy and the ceiling at every budget."""
        return 1 + len(self._budgets(self._swept(kv_head, kv_heads))) * (len(POLICIES) + 1)

    def _swept(self, kv_head: int, kv_heads: int) -> bool:
        """Whether a KV head lives through all budgets: other ones in other layers, so that few speak for all places."""
        return (kv_head - self.about["layer"]) % kv_heads < self.params["budget_heads"]

    def _budgets(self, swept: bool) -> list[float]:
        return sorted({self.params["warm"], *(self.params["budgets"] if swept else ())})

    def _lives(
        self, reads: StepReads, slots: int, sizes: Sizes
    ) -> Iterator[tuple[str, dict, np.ndarray | None]]:
        """Name, measures and origin of reads of every policy with so many warm slots; then of the ceiling."""
        params = self.params
        capacity = Capacity(slots, int(params["ghost"] * reads.tokens), params["batch"], params["window"])
        for name in POLICIES:
            life = live(reads, name, capacity, params["decay"])
            measures = step_measures(life, reads, sizes, name)
            yield name, measures, life.origin
        start = prefilled(reads.visible, capacity)
        hits = ceiling(reads, slots, start == WARM)
        near = ceiling(reads, slots + capacity.ghost, (start == WARM) | (start == GHOST))
        yield CEILING, ceiling_measures(measures, hits, near), None

    def write(self, outputs: Mapping[str, str], metadata: Mapping[str, str]) -> None:
        for name, path in outputs.items():
            write_table(table_of(self.rows[name], SCHEMAS[name]), path, SCHEMAS[name], metadata)


def _spec(params: Mapping) -> CodecSpec:
    return CodecSpec(params["headline"]["codec"], params["headline"]["bytes"])


def _setting(frontier: Mapping) -> tuple[Setting, str]:
    rule = frontier["headline"]["rule"]
    grid = frontier["rules"][rule]
    grids = {rule: Grid.of(np.linspace(grid["start"], grid["stop"], grid["count"]))}
    return Setting(frontier["sinks"], frontier["hot"], frontier["top_k"], grids), rule


def _thetas(points: str, layer: int, params: Mapping) -> np.ndarray:
    """The headline design's calibrated threshold of each head; -inf where none met the target."""
    headline = params["headline"]
    rows = (
        read_table(points)
        .filter(
            pl.col("layer") == layer,
            pl.col("codec") == headline["codec"],
            pl.col("code_bytes") == headline["bytes"],
            pl.col("rule") == headline["rule"],
            pl.col("method") == "calibrated",
            pl.col("target_metric") == params["target_metric"],
            (pl.col("target") - params["target"]).abs() < 1e-6,
        )
        .unique(["head"])
        .sort("head")
    )
    if not rows.height:
        raise TableError(
            f"{points}: no calibrated {params['target_metric']} point at {params['target']:g} of the headline design "
            f"for layer {layer}.\n  Write: frontier: {{targets: {{fer: [0.01]}}}}, or delete it and rerun frontier"
        )
    return rows["theta"].fill_null(-np.inf).fill_nan(-np.inf).to_numpy()
