"""Index patterns of real survivors: which keys the headline design reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ghostkv.captures.capture_files import read_layer
from ghostkv.captures.captured_texts import CapturedText
from ghostkv.codecs.records import load_codecs, read_records, specs
from ghostkv.elimination.frontier import Design, Setting, estimate_group, view_group
from ghostkv.elimination.thresholds import calibrated_thetas, reference, statistic
from ghostkv.files.provenance import inherited
from ghostkv.files.tables import write_rows
from ghostkv.stages.bandwidth.tables import PATTERN_SCHEMA


def survivor_patterns(inputs: Mapping[str, Sequence[str] | str], params: Mapping, output: str) -> None:
    """Which keys the headline design reads for queries of held-out texts, as index lists.

    Parameters
    ----------
    inputs : mapping
        `codecs` and `records` of each layer of `chosen`, and `points`, the frontier's table with the thresholds.
    params : mapping
        `captures` (each with `text`, `domain`, `role`, `folder`), `chosen` layers, `headline`, `sinks`, `hot`,
        `top_k`, `codecs`, `target_metric`, `target`, `patterns` (queries a layer), `code`.
    output : str

    Raises
    ------
    TableError
        The frontier has no calibrated point of that kind.
    """
    captures, points = params["captures"], inputs["points"]
    files = zip(params["chosen"], inputs["codecs"], inputs["records"], strict=True)
    texts = [CapturedText(**entry) for entry in captures if entry["role"] == "held_out"]
    spec = next(
        one
        for one in specs(params["codecs"])
        if (one.name, one.code_bytes) == (params["headline"]["codec"], params["headline"]["bytes"])
    )
    goal = params["headline"]["rule"], params["target_metric"], params["target"]
    thetas = calibrated_thetas(points, spec, *goal)
    setting = Setting(params["sinks"], params["hot"], params["top_k"], {})
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
                survived = _survived(view, known, params["headline"]["rule"], setting, thetas[layer])
                every = max(1, len(texts) * capture.kv_heads * len(capture.positions) // params["patterns"])
                about = {"layer": layer, "kv_head": kv_head, "text": text.text, "domain": text.domain}
                for query in range(len(capture.positions) - 1, -1, -every):
                    if not view.visible.cold[query]:
                        break
                    row = {"tokens": capture.tokens, "position": capture.positions[query]}
                    row |= {"cold": view.visible.cold[query], "survivors": np.flatnonzero(survived[query])}
                    rows.append(about | row)
        print(f"layer {layer}: {len(rows)} patterns so far", flush=True)
    write_rows(rows, output, PATTERN_SCHEMA, inherited(points, params.get("code")))


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
