"""Peers: every selector of a layer at the same bytes, then intervals over documents and verdicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

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
from ghostkv.files.buffers import Space
from ghostkv.files.progress import progress
from ghostkv.files.tables import Tables
from ghostkv.selectors import make
from ghostkv.selectors.base import Calibration
from ghostkv.selectors.evaluate import evaluate
from ghostkv.selectors.scenes import ThresholdScenes, budget_of, calibration_of, for_selector, view
from ghostkv.stages.peers.schemas import LAYER_SCHEMAS
from ghostkv.stages.peers.tables import head_rows, layer_rows

if TYPE_CHECKING:
    from ghostkv.stages.peers.jobs import PeersLayer


def measure_layer(job: PeersLayer, inputs: Mapping[str, str], outputs: Mapping[str, str]) -> None:
    """Measure every selector of one layer on held-out texts.

    Raises
    ------
    ConfigError
        A role has no text, no query lies at or beyond `headline_start`, or a selector is misconfigured.
    """
    texts, exact = job.captures, _exact(job)
    chosen = [make(entry) for entry in job.selectors]
    loaded = {text: read_layer(text.folder, job.layer) for text in texts}
    roles = by_role(texts, "codec", "threshold", "held_out")
    # Selectors hold every pair of a text's queries and keys, so imported texts of many threshold queries are thinned.
    most = max(len(loaded[text].positions) for text in roles["held_out"])
    for text in roles["threshold"]:
        loaded[text] = loaded[text].at(slice(None, None, -(-len(loaded[text].positions) // most)))
    for text in measured_texts(texts):
        from_position(loaded[text], text, job.headline_start)  # raises where none lies there
    ghosts = _GhostRecords(loaded, roles["codec"], inputs, job)
    tables, found, space = Tables(LAYER_SCHEMAS), {}, Space()
    some = loaded[texts[0]]
    for kv_head in progress(range(some.kv_heads), desc=f"layer {job.layer}", unit="KV head"):
        group = _HeadTexts(loaded, roles, ghosts, kv_head, job, space)
        fitted = [selector.fit(group.calibration()) for _, selector in chosen]
        for text in roles["held_out"]:
            capture = loaded[text]
            scene, truth = view(capture, kv_head, exact, group.records(text), space)
            budget = budget_of(capture, scene.visible, job.ratios)
            keys = {"layer": job.layer, "text": text.text, "domain": text.domain, "queries": scene.shape[1]}
            for (name, selector), state in zip(chosen, fitted, strict=True):
                selection = selector.select(state, for_selector(selector, scene, truth), budget)
                queries = evaluate(selection, scene, truth, budget)
                who = {"selector": name, "variant": selector.variant, "kind": selector.kind}
                about = {**keys, **who, "kv_head": capture.kv_numbers[kv_head]}
                rows = head_rows(about, capture.heads_of(kv_head), queries, job.ratios, selection.feasible)
                tables.add_rows("peers", rows)
                found.setdefault((text, name, selector), []).append((queries, selection.feasible))
        print(
            f"layer {job.layer}: KV head {some.kv_numbers[kv_head]}, {len(chosen)} selectors measured",
            flush=True,
        )
    tables.add_rows("layers", _pooled(found, job.layer, some, job.ratios))
    tables.write(outputs, sketch_metadata(texts, job.code))


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
    kv_head: int
    job: PeersLayer
    space: Space

    def records(self, text: CapturedText):
        return lambda name, size: self.ghosts.of(text, self.kv_head, CodecSpec(name, size))

    def calibration(self) -> Calibration:
        texts = [(self.loaded[text], self.records(text)) for text in self.by_role["threshold"]]
        scenes = ThresholdScenes(texts, self.kv_head, _exact(self.job), self.job.ratios, self.space)
        return calibration_of([self.loaded[text] for text in self.by_role["codec"]], scenes, self.job.seed)


class _GhostRecords:
    """Fitted codecs and decoded records by text and KV head; sizes that the sketch stage lacks are fitted."""

    def __init__(self, loaded, codec_texts, sketch, job):
        self._loaded, self._codec_texts = loaded, codec_texts
        self._sketch, self._job = sketch, job
        self._codecs: dict[CodecSpec, dict] = {}
        self._decoded: dict[tuple, Decoded] = {}

    def of(self, text: CapturedText, kv_head: int, spec: CodecSpec) -> tuple[Codec, Decoded]:
        if spec not in self._codecs:
            self._codecs[spec] = self._fit(spec)
        codec = self._codecs[spec][spec, kv_head]
        if (text, spec, kv_head) not in self._decoded:
            if spec in self._job.sketched:
                heads = read_records(self._sketch["records"], text.text, [spec])[spec]
            else:
                keys = self._loaded[text].keys
                heads = [self._codecs[spec][spec, head].encode(keys[head]) for head in range(len(keys))]
            for head, records in enumerate(heads):
                self._decoded[text, spec, head] = self._codecs[spec][spec, head].decode(records)
        return codec, self._decoded[text, spec, kv_head]

    def _fit(self, spec: CodecSpec) -> dict:
        if spec in self._job.sketched:
            return load_codecs(self._sketch["codecs"], [spec])
        calibration = [self._loaded[text] for text in self._codec_texts]
        return fit_codecs(calibration, [spec], self._job.layer, self._job.sketch_seed)


def _exact(job: PeersLayer) -> dict[str, int]:
    return {name: getattr(job, name) for name in ("sinks", "hot", "top_k", "headline_start")}
