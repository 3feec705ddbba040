"""Peers: every selector of a layer at the same bytes, then intervals over documents and verdicts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ghostkv.captures.capture_files import LayerCapture, read_layer
from ghostkv.captures.captured_texts import (
    CapturedText,
    by_role,
    from_position,
    measured_texts,
    sketch_metadata,
)
from ghostkv.codecs import Codec, Decoded
from ghostkv.codecs.fitting import fit_codecs
from ghostkv.codecs.records import CodecSpec, load_codecs, read_records
from ghostkv.files.buffers import Buffers
from ghostkv.files.io import stable_seed
from ghostkv.files.tables import Tables
from ghostkv.selectors import make
from ghostkv.selectors.base import Budget, Calibration, Scene
from ghostkv.selectors.evaluate import evaluate
from ghostkv.selectors.scenes import budget_of, calibration_view, for_selector, view
from ghostkv.stages.peers.tables import SCHEMAS, head_rows, layer_rows


def measure_layer(
    captures: Sequence[Mapping[str, str]],
    sketch: Mapping[str, str],
    layer: int,
    params: Mapping,
    outputs: Mapping[str, str],
) -> None:
    """Measure every selector of one layer on held-out texts.

    Parameters
    ----------
    captures : sequence of mapping
        Every capture with `text`, `domain`, `role` and `folder`.
    sketch : mapping
        Paths of the layer's `codecs` and `records`.
    layer : int
    params : mapping
        The config section `peers`; `exact` with `sinks`, `hot`, `top_k` and `headline_start`; the `codecs`
        and `sketch_seed` of the sketch stage; `code`.
    outputs : mapping
        Paths of `peers` and `layers`.

    Raises
    ------
    ConfigError
        A role has no text, no query lies at or beyond `headline_start`, or a selector is misconfigured.
    """
    texts = [CapturedText(**entry) for entry in captures]
    chosen = [make(entry) for entry in params["selectors"]]
    loaded = {text: read_layer(text.folder, layer) for text in texts}
    roles = by_role(texts, "codec", "threshold", "held_out")
    for text in measured_texts(texts):
        from_position(loaded[text], text, params["exact"]["headline_start"])  # raises where none lies there
    ghosts = _GhostRecords(loaded, roles["codec"], sketch, layer, params)
    tables, found, buffers = Tables(SCHEMAS), {}, Buffers()
    some = loaded[texts[0]]
    for kv_head in range(some.kv_heads):
        group = _HeadTexts(loaded, roles, ghosts, layer, kv_head, params, buffers)
        fitted = [selector.fit(group.calibration()) for _, selector in chosen]
        for text in roles["held_out"]:
            capture = loaded[text]
            scene, truth = view(capture, kv_head, params["exact"], group.records(text), buffers)
            budget = budget_of(capture, scene.visible, params["ratios"])
            keys = {"layer": layer, "text": text.text, "domain": text.domain, "queries": scene.shape[1]}
            heads = np.arange(kv_head * capture.group, (kv_head + 1) * capture.group)
            for (name, selector), state in zip(chosen, fitted, strict=True):
                selection = selector.select(state, for_selector(selector, scene, truth), budget)
                queries = evaluate(selection, scene, truth, budget)
                who = {"selector": name, "variant": selector.variant, "kind": selector.kind}
                about = {**keys, **who, "kv_head": kv_head}
                rows = head_rows(about, heads, queries, params["ratios"], selection.feasible)
                tables.add_rows("peers", rows)
                found.setdefault((text, name, selector), []).append((queries, selection.feasible))
        print(f"layer {layer}: KV head {kv_head}, {len(chosen)} selectors measured", flush=True)
    tables.add_rows("layers", _pooled(found, layer, some, params["ratios"]))
    tables.write(outputs, sketch_metadata(texts, params.get("code", "")))


def _pooled(found: Mapping, layer: int, some: LayerCapture, ratios: Sequence[float]) -> list[dict]:
    """Rows of a whole layer: the groups' queries side by side."""
    rows = []
    for (text, name, selector), groups in found.items():
        feasible = np.logical_and.reduce([one for _, one in groups])
        queries = {
            metric: np.concatenate([values[metric] for values, _ in groups], axis=1)
            for metric in groups[0][0]
        }
        keys = {
            "layer": layer,
            "selector": name,
            "variant": selector.variant,
            "kind": selector.kind,
            "text": text.text,
            "domain": text.domain,
            "heads": some.heads,
            "queries": next(iter(queries.values()))[0].size,
        }
        rows += layer_rows(keys, queries, ratios, feasible)
    return rows


@dataclass(frozen=True)
class _HeadTexts:
    """One KV head on all texts: what its selectors are calibrated with."""

    loaded: Mapping[CapturedText, LayerCapture]
    by_role: Mapping[str, Sequence[CapturedText]]
    ghosts: _GhostRecords
    layer: int
    kv_head: int
    params: Mapping
    buffers: Buffers

    def records(self, text: CapturedText):
        return lambda name, size: self.ghosts.of(text, self.kv_head, CodecSpec(name, size))

    def calibration(self) -> Calibration:
        codec = [self.loaded[text] for text in self.by_role["codec"]]
        return Calibration(
            np.concatenate([capture.keys[self.kv_head].astype(np.float32) for capture in codec]),
            np.concatenate([capture.group_queries(self.kv_head) for capture in codec], axis=1),
            _ThresholdScenes(self),
            stable_seed(self.params["seed"], self.layer, self.kv_head),
        )


@dataclass(frozen=True)
class _ThresholdScenes:
    """Threshold texts one after the other, in the same buffers; may be gone through again."""

    group: _HeadTexts

    def __iter__(self) -> Iterator[tuple[Scene, Budget]]:
        group = self.group
        for text in group.by_role["threshold"]:
            capture, exact = group.loaded[text], group.params["exact"]
            scene = calibration_view(capture, group.kv_head, exact, group.records(text), group.buffers)
            yield scene, budget_of(capture, scene.visible, group.params["ratios"])


class _GhostRecords:
    """Fitted codecs and decoded records by text and KV head; sizes that the sketch stage lacks are fitted."""

    def __init__(self, loaded, codec_texts, sketch, layer, params):
        self._loaded, self._codec_texts = loaded, codec_texts
        self._sketch, self._layer, self._params = sketch, layer, params
        self._made = {CodecSpec(entry["name"], size) for entry in params["codecs"] for size in entry["bytes"]}
        self._codecs: dict[CodecSpec, dict] = {}
        self._decoded: dict[tuple, Decoded] = {}

    def of(self, text: CapturedText, kv_head: int, spec: CodecSpec) -> tuple[Codec, Decoded]:
        if spec not in self._codecs:
            self._codecs[spec] = self._fit(spec)
        codec = self._codecs[spec][spec, kv_head]
        if (text, spec, kv_head) not in self._decoded:
            if spec in self._made:
                heads = read_records(self._sketch["records"], text.text, [spec])[spec]
            else:
                keys = self._loaded[text].keys
                heads = [self._codecs[spec][spec, head].encode(keys[head]) for head in range(len(keys))]
            for head, records in enumerate(heads):
                self._decoded[text, spec, head] = self._codecs[spec][spec, head].decode(records)
        return codec, self._decoded[text, spec, kv_head]

    def _fit(self, spec: CodecSpec) -> dict:
        if spec in self._made:
            return load_codecs(self._sketch["codecs"], [spec])
        calibration = [self._loaded[text] for text in self._codec_texts]
        return fit_codecs(calibration, [spec], self._layer, self._params["sketch_seed"])
