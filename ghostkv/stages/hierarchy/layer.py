"""Hierarchy: an index over ghost records against the flat scan, at the same certificate, layer by layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from ghostkv.captures.capture_files import LayerCapture, read_layer
from ghostkv.captures.captured_texts import CapturedText, by_role, sketch_metadata
from ghostkv.codecs.nested import Nested, level_bytes
from ghostkv.files.buffers import Space
from ghostkv.files.progress import progress
from ghostkv.stages.hierarchy.index import Index, IndexSpec
from ghostkv.stages.hierarchy.rows import HierarchyTables, calibrate_share, needed_share
from ghostkv.stages.hierarchy.scan import ScanRule, scan_topk
from ghostkv.stages.hierarchy.scan_loop import Counts
from ghostkv.stages.hierarchy.view import LateView, look

if TYPE_CHECKING:
    from ghostkv.config.hierarchy import IndexEntry
    from ghostkv.stages.hierarchy.jobs import HierarchyLayer

_TOPK = {"certificate": "topk", "target": 0.0}


def measure_layer(job: HierarchyLayer, inputs: Mapping[str, str], outputs: Mapping[str, str]) -> None:
    """Compare flat and indexed scans of one layer.

    Raises
    ------
    ConfigError
        A role lacks texts.
    """
    loaded = {text: read_layer(text.folder, job.layer) for text in job.captures}
    texts = [text for text in job.captures if text.role != "trace"]
    roles = by_role(texts, "codec", "threshold", "held_out")
    roles["trace"] = [text for text in job.captures if text.role == "trace"]
    rows, space = HierarchyTables(), Space()
    for kv_head in progress(range(loaded[texts[0]].kv_heads), desc=f"layer {job.layer}", unit="KV head"):
        _Head(loaded, roles, kv_head, job, rows, space).measure()
    rows.write(outputs, sketch_metadata(texts, job.code))


@dataclass
class _Head:
    """One KV head: its codec, its choice of an index, its measures."""

    loaded: Mapping[CapturedText, LayerCapture]
    by_role: Mapping[str, Sequence[CapturedText]]
    kv_head: int
    job: HierarchyLayer
    rows: HierarchyTables
    space: Space

    def measure(self) -> None:
        """Choose on threshold texts, then measure on held-out texts and the trace."""
        job = self.job
        self.specs = [_spec(entry) for entry in job.indexes]
        self.statistical = _spec(job.calibrated)
        self.scan = ScanRule(job.top_k, job.probes, job.seed_keys, job.bypass, job.refresh)
        self.codec = self._fit()
        chosen = self._choose()
        share = self._calibrate()
        for role in ("held_out", "trace"):
            for text in self.by_role.get(role, ()):
                tokens = self.loaded[text].tokens
                for context in (tokens // 4, tokens // 2, tokens) if role == "held_out" else (tokens,):
                    self._compare(text, context, chosen, share)

    def _fit(self) -> Nested:
        calibration = [self.loaded[text] for text in self.by_role["codec"]]
        keys = np.concatenate([capture.keys[self.kv_head] for capture in calibration])
        queries = [capture.group_queries(self.kv_head).reshape(-1, keys.shape[1]) for capture in calibration]
        levels = level_bytes(self.job.levels, keys.shape[1])
        return Nested.of(levels).fit(keys, np.concatenate(queries))

    def _view(self, text: CapturedText, context: int, count: int) -> LateView | None:
        return look(self.loaded[text], self.kv_head, self.codec, context, self.job, count, self.space)

    def _about(self, text: CapturedText, context: int) -> dict:
        named = {"layer": self.job.layer, "kv_head": self.kv_head, "context": context, "mode": "grown"}
        return named | {"text": text.text, "domain": text.domain, "role": text.role}

    def _index(self, view: LateView, spec: IndexSpec, appended: bool = False) -> Index:
        """What a prefill up to the first query leaves and a decode appends, or a decode from the first token."""
        index = Index(self.codec, view.keys, spec, self.job.sinks, clusterings=view.clusterings)
        if not appended:
            index.append_chunks(view.grown_from, self.job.block, rest=True)
        return index.append_chunks(int(view.truth.visible.stop.max()), self.job.chunk)

    def _scan(self, view: LateView, about: Mapping, index: Index, flat: Counts) -> list[dict]:
        reach = index.upper(view.queries, view.scale, view.softcap)
        about = {**about, **_TOPK, "index": index.spec.name}
        self.rows.add_bound_checks(about, index, reach, view)
        found = scan_topk(view.lower, view.upper, view.truth, view.costs, self.scan, index, reach)
        return self.rows.add_topk(about, view, flat, found, index, self.scan.top_k)

    def _flat(self, view: LateView) -> Counts:
        return scan_topk(view.lower, view.upper, view.truth, view.costs, self.scan)

    def _choose(self) -> dict[str, str]:
        """The index that reads least, and the one that costs fewest bytes, on the first threshold text."""
        text = self.by_role["threshold"][0]
        context = self.loaded[text].tokens
        view = self._view(text, context, self.job.queries // 2)
        if view is None:
            return dict.fromkeys(("reads", "bytes"), self.specs[0].name)
        flat, found = self._flat(view), {}
        for spec in self.specs:
            found[spec.name] = self._scan(view, self._about(text, context), self._index(view, spec), flat)
        columns = {"reads": "reads_ratio", "bytes": "bytes_ratio"}
        chosen = {
            aim: min(found, key=lambda name, column=column: sum(row[column] for row in found[name]))
            for aim, column in columns.items()
        }
        _mark(found, chosen)
        return chosen

    def _calibrate(self) -> np.ndarray:
        """Share of the margins that threshold texts need for the FER aimed at, one a head."""
        risks = []
        for text in self.by_role["threshold"]:
            view = self._view(text, self.loaded[text].tokens, self.job.queries)
            if view is None:
                continue
            index = self._index(view, self.statistical)
            reach = index.upper(view.queries, view.scale, view.softcap)
            found = scan_topk(view.lower, view.upper, view.truth, view.costs, self._plain, index, reach)
            risks.append(needed_share(view, index, reach, found, self.scan.top_k)[0])
        group = self.loaded[self.by_role["threshold"][0]].group
        return calibrate_share(risks, self.job.fer) if risks else np.ones(group)

    @property
    def _plain(self) -> ScanRule:
        """Without bypassed anchors, so that a query's reads do not depend on earlier ones."""
        return replace(self.scan, bypass=False)

    def _compare(
        self, text: CapturedText, context: int, chosen: Mapping[str, str], share: np.ndarray
    ) -> None:
        # Several texts stand for a context length, so each needs fewer.
        count = self.job.queries // (2 if text.role == "held_out" else 1)
        view = self._view(text, context, count)
        if view is None:
            return
        flat, found, about = self._flat(view), {}, self._about(text, context)
        longest = context == self.loaded[text].tokens
        every = text.role == "trace" and self.job.layer % self.job.compare_every == 0
        indexes = {
            spec.name: self._index(view, spec) for spec in self.specs if every or spec.name in chosen.values()
        }
        for name, index in indexes.items():
            found[name] = self._scan(view, about, index, flat)
        if every:
            best = indexes[chosen["reads"]]
            found[best.spec.name] += self._mass(view, about, best)
            index = self._index(view, best.spec, appended=True)
            found[best.spec.name] += self._scan(view, {**about, "mode": "appended"}, index, flat)
        _mark(found, chosen)
        if longest:
            self._statistical(view, about, flat, share)

    def _mass(self, view: LateView, about: Mapping, index: Index) -> list[dict]:
        reach = index.upper(view.queries, view.scale, view.softcap)
        about = {**about, "index": index.spec.name}
        added = []
        for delta in self.job.deltas:
            added += self.rows.add_mass(about, view, index, reach, self.job.shares, delta)
        return added

    def _statistical(self, view: LateView, about: Mapping, flat: Counts, share: np.ndarray) -> None:
        index = self._index(view, self.statistical)
        reach = index.upper(view.queries, view.scale, view.softcap).shrunk(share)
        found = scan_topk(view.lower, view.upper, view.truth, view.costs, self._plain, index, reach)
        about = {**about, "certificate": "calibrated", "target": self.job.fer, "index": index.spec.name}
        self.rows.add_topk(about, view, flat, found, index, self.scan.top_k, share)


def _spec(entry: IndexEntry) -> IndexSpec:
    return IndexSpec(entry.partition, entry.leaf, entry.bound, entry.levels)


def _mark(found: Mapping[str, list[dict]], chosen: Mapping[str, str]) -> None:
    """Say of each row whether its index is the one that threshold texts chose."""
    for name, rows in found.items():
        for row in rows:
            row |= {f"chosen_for_{aim}": name == best for aim, best in chosen.items()}
