"""Index patterns of real survivors: which keys the headline design reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from ghostkv.captures.capture_files import read_layer
from ghostkv.codecs.records import CodecSpec, load_codecs, read_records
from ghostkv.elimination.frontier import Design, Setting, estimate_group, view_group
from ghostkv.elimination.thresholds import reference, statistic
from ghostkv.files.errors import TableError
from ghostkv.files.io import read_table, write_table
from ghostkv.files.provenance import inherited
from ghostkv.files.tables import table_of
from ghostkv.stages.bandwidth.schemas import PATTERN_SCHEMA

if TYPE_CHECKING:
    from ghostkv.stages.bandwidth.jobs import SurvivorPatterns


def survivor_patterns(
    job: SurvivorPatterns, inputs: Mapping[str, Sequence[str] | str], outputs: Mapping[str, str]
) -> None:
    """Which keys the headline design reads for queries of held-out texts, as index lists.

    Parameters
    ----------
    job : SurvivorPatterns
    inputs : mapping
        `codecs` and `records` of each layer of the job, and `points`, the frontier's table with the thresholds.
    outputs : mapping
        Path of `patterns`.

    Raises
    ------
    TableError
        The frontier has no calibrated point of that kind.
    """
    points = inputs["points"]
    files = zip(job.layers, inputs["codecs"], inputs["records"], strict=True)
    texts = [text for text in job.captures if text.role == "held_out"]
    spec = CodecSpec(job.headline.codec, job.headline.bytes)
    thetas = _thetas(points, job)
    setting = Setting(job.sinks, job.hot, job.top_k, {})
    rows = []
    for layer, codecs, record_file in files:
        fitted = load_codecs(codecs, [spec])
        for text in texts:
            capture = read_layer(text.folder, layer)
            records = read_records(record_file, text.text, [spec])[spec]
            for kv_head in range(capture.kv_heads):
                view = view_group(capture, kv_head, setting, False)
                known = estimate_group(
                    view, Design(spec.name, spec.code_bytes, fitted[spec, kv_head]), records[kv_head]
                )
                survived = _survived(view, known, job.headline.rule, setting, thetas, layer)
                every = max(1, len(texts) * capture.kv_heads * len(capture.positions) // job.patterns)
                about = {"layer": layer, "kv_head": kv_head, "text": text.text, "domain": text.domain}
                for query in range(len(capture.positions) - 1, -1, -every):
                    if not view.visible.cold[query]:
                        break
                    row = {"tokens": capture.tokens, "position": capture.positions[query]}
                    row |= {"cold": view.visible.cold[query], "survivors": np.flatnonzero(survived[query])}
                    rows.append(about | row)
        print(f"layer {layer}: {len(rows)} patterns so far", flush=True)
    write_table(
        table_of(rows, PATTERN_SCHEMA), outputs["patterns"], PATTERN_SCHEMA, inherited(points, job.code)
    )


def _thetas(points: str, job: SurvivorPatterns) -> dict[tuple[int, int], float | None]:
    headline = job.headline
    rows = read_table(points).filter(
        (pl.col("codec") == headline.codec)
        & (pl.col("code_bytes") == headline.bytes)
        & (pl.col("rule") == headline.rule)
        & (pl.col("method") == "calibrated")
        & (pl.col("target_metric") == job.target_metric)
        & ((pl.col("target") - job.target).abs() < 1e-6)
    )
    if not rows.height:
        raise TableError(
            f"{points}: no calibrated {job.target_metric} point at {job.target:g} of the headline design.\n"
            "  Write: frontier: {targets: {fer: [0.01]}}   (or another bandwidth.point), or rerun frontier"
        )
    return {(layer, head): theta for layer, head, theta in rows.select("layer", "head", "theta").iter_rows()}


def _survived(view, known, rule: str, setting: Setting, thetas: Mapping, layer: int) -> np.ndarray:
    """Cold keys that some head of the group reads, bool, shape [queries, tokens]."""
    top_k = min(setting.top_k, known.known.shape[-1])
    origin = reference(rule, known.known, view.visible, top_k)
    compared = statistic(rule, known.scores, origin, known.weight, known.radius, view.visible)
    group = view.capture.group
    keys = np.arange(compared.shape[2])
    cold = (keys >= view.visible.start[:, None]) & (keys < view.visible.stop[:, None])
    found = np.zeros(cold.shape, bool)
    for head in range(group):
        theta = thetas[layer, view.kv_head * group + head]
        # No threshold met the target: nothing is eliminated.
        found |= compared[head] >= (-np.inf if theta is None else theta)
    return found & cold
