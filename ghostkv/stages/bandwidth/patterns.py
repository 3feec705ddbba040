"""Index patterns of real survivors: which keys the headline design reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ghostkv.captures.capture_files import read_layer
from ghostkv.codecs.records import load_codecs, read_records
from ghostkv.elimination.frontier import Design, Setting, estimate_group, view_group
from ghostkv.elimination.thresholds import calibrated_thetas, reference, statistic
from ghostkv.files.provenance import inherited
from ghostkv.files.tables import write_rows
from ghostkv.stages.bandwidth.schemas import PATTERN_SCHEMA

if TYPE_CHECKING:
    from ghostkv.stages.bandwidth.jobs import SurvivorPatterns


def survivor_patterns(
    job: SurvivorPatterns, inputs: Mapping[str, Sequence[str] | str], outputs: Mapping[str, str]
) -> None:
    """Which keys the headline design reads for queries of held-out texts, as index lists.

    Of the inputs, `codecs` and `records` have a file for each layer of the job; `points` is the frontier's table with
    the thresholds. Raises TableError where it has no calibrated point of that kind.
    """
    points = inputs["points"]
    files = zip(job.layers, inputs["codecs"], inputs["records"], strict=True)
    texts = [text for text in job.captures if text.role == "held_out"]
    spec = job.headline
    thetas = calibrated_thetas(points, spec, job.rule, job.target_metric, job.target)
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
                survived = _survived(view, known, job.rule, setting, thetas[layer])
                every = max(1, len(texts) * capture.kv_heads * len(capture.positions) // job.patterns)
                about = {"layer": layer, "kv_head": capture.kv_numbers[kv_head], "text": text.text}
                about |= {"domain": text.domain}
                for query in range(len(capture.positions) - 1, -1, -every):
                    if not view.visible.cold[query]:
                        break
                    row = {"tokens": capture.tokens, "position": capture.positions[query]}
                    row |= {"cold": view.visible.cold[query], "survivors": np.flatnonzero(survived[query])}
                    rows.append(about | row)
        print(f"layer {layer}: {len(rows)} patterns so far", flush=True)
    write_rows(rows, outputs["patterns"], PATTERN_SCHEMA, inherited(points, job.code))


def _survived(view, known, rule: str, setting: Setting, thetas: np.ndarray) -> np.ndarray:
    """Cold keys that some head of the group reads, bool, shape [queries, tokens]."""
    top_k = min(setting.top_k, known.known.shape[-1])
    origin = reference(rule, known.known, view.visible, top_k)
    compared = statistic(rule, known.scores, origin, known.weight, known.radius, view.visible)
    group = view.capture.group
    cold = view.visible.mask(compared.shape[2])
    found = np.zeros(cold.shape, bool)
    for head in range(group):
        found |= compared[head] >= thetas[view.kv_head * group + head]
    return found & cold
