"""What a selector sees of a captured KV head, and the exact attention that it is measured against."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ghostkv.captures.capture_files import LayerCapture
from ghostkv.codecs.base import ELEMENT_BYTES
from ghostkv.elimination.attention import ColdRange, cold_range, flag_best, scores, softmax
from ghostkv.files.buffers import Space
from ghostkv.files.compiled import njit
from ghostkv.files.io import stable_seed
from ghostkv.selectors.base import Budget, Calibration, Scene, Selector

# Bits of `Stage.relevant`: the top-k of all visible keys, and the 32 best cold ones.
TOP_K, COLD_32 = np.uint8(1), np.uint8(2)
RECALL_KEYS = 32


@dataclass(frozen=True)
class SceneTruth:
    """Exact attention of one KV head's group on one text: what a selection is measured against."""

    scores: np.ndarray  # float32 [group, queries, tokens]; -inf where a key is not visible
    mass: np.ndarray  # float32 [group, queries, tokens]; softmax probabilities
    lse: np.ndarray  # float64 [group, queries]
    relevant: np.ndarray  # uint8 [group, queries, tokens]; flags `TOP_K` and `COLD_32`
    values: np.ndarray | None  # float32 [tokens, value_dim]
    outputs: np.ndarray | None  # float32 [group, queries, value_dim]
    # int [group, queries]; relevant keys, those of them that are cold, and the best cold keys
    top_k: np.ndarray
    top_k_cold: np.ndarray
    cold_32: np.ndarray
    # float64 [group, queries]; mass of the cold keys, and of sinks and hot window
    cold_mass: np.ndarray
    kept_mass: np.ndarray
    kept_output: np.ndarray | None  # float32 [group, queries, value_dim]; their part of the output


def view(
    capture: LayerCapture, kv_head: int, exact: Mapping[str, int], records: Callable, space: Space
) -> tuple[Scene, SceneTruth]:
    """What selectors see of a KV head on a text, and the truth that they do not see.

    Parameters
    ----------
    capture : LayerCapture
        With all queries; those from `headline_start` on are decided and measured, the earlier ones observed.
    exact : mapping
        `sinks`, `hot`, `top_k`, `headline_start`.
    records : callable
        See `Scene.records`.
    space : Space
        Scene and truth are valid until the next view in the same space.
    """
    logits, everyone = _logits(capture, kv_head, exact, space)
    mass, lse = softmax(logits, space.of("mass", logits.shape))
    first = _first(capture, exact)
    scene = _scene(capture, kv_head, everyone.at(slice(first, None)), logits[:, first:], mass, records, space)
    return scene, _truth(
        capture, kv_head, exact["top_k"], scene.visible, logits[:, first:], mass[:, first:], lse[:, first:]
    )


def calibration_view(
    capture: LayerCapture, kv_head: int, exact: Mapping[str, int], records: Callable, space: Space
) -> Scene:
    """The scene of a text that thresholds are chosen on; it has no observations, and no truth is computed."""
    first = _first(capture, exact)
    late = capture.at(slice(first, None))
    logits, visible = _logits(late, kv_head, exact, space)
    nothing = np.zeros((capture.group, 0, capture.tokens), np.float32)
    return _scene(late, kv_head, visible, logits, nothing, records, space)


@dataclass(frozen=True)
class ThresholdScenes:
    """Threshold texts one after the other, in the same space; may be gone through again."""

    texts: Sequence[tuple[LayerCapture, Callable]]  # each with its ghost records, as `Scene.records`
    kv_head: int
    exact: Mapping[str, int]
    ratios: Sequence[float]
    space: Space

    def __iter__(self) -> Iterator[tuple[Scene, Budget]]:
        for capture, records in self.texts:
            scene = calibration_view(capture, self.kv_head, self.exact, records, self.space)
            yield scene, budget_of(capture, scene.visible, self.ratios)


def calibration_of(codec: Sequence[LayerCapture], scenes: ThresholdScenes, seed: int) -> Calibration:
    """What a selector of one KV head is fitted with: codec texts joined, threshold texts, and a seed of the head's own."""
    head = scenes.kv_head
    return Calibration(
        keys=np.concatenate([capture.keys[head].astype(np.float32) for capture in codec]),
        queries=np.concatenate([capture.group_queries(head) for capture in codec], axis=1),
        scenes=scenes,
        seed=stable_seed(seed, codec[0].layer, head),
    )


def _first(capture: LayerCapture, exact: Mapping[str, int]) -> int:
    return int(np.searchsorted(capture.positions, exact["headline_start"]))


def _logits(capture, kv_head, exact, space) -> tuple[np.ndarray, ColdRange]:
    visible = cold_range(capture.positions, capture.first_visible(), exact["sinks"], exact["hot"])
    logits = space.of("logits", (capture.group, len(capture.positions), capture.tokens))
    flat = capture.group_queries(kv_head).reshape(-1, capture.keys.shape[2])
    keys, rows = capture.keys[kv_head].astype(np.float32), logits.reshape(-1, capture.tokens)
    scores(flat, keys, capture.scale, capture.softcap, visible, rows)
    return logits, visible


def _scene(capture, kv_head, visible, logits, earlier, records, space) -> Scene:
    queries = capture.group_queries(kv_head)[:, -len(visible.last) :]
    known = space.of("known", logits.shape)
    known[...] = logits
    np.copyto(known, -np.inf, where=visible.mask(capture.tokens))
    return Scene(
        capture.keys[kv_head].astype(np.float32),
        np.ascontiguousarray(queries),
        capture.scale,
        capture.softcap,
        visible,
        known,
        earlier,
        np.arange(len(visible.last)) + max(earlier.shape[1] - len(visible.last), 0),
        space.of("scratch", logits.shape),
        space.of("spare", logits.shape),
        space.of("reads", logits.shape[1:], np.uint8),
        capture.layer,
        kv_head * capture.group,
        records,
    )


def _truth(capture, kv_head, top_k, visible, logits, mass, lse) -> SceneTruth:
    relevant = np.zeros(logits.shape, np.uint8)
    top_k = min(top_k, logits.shape[2])
    flag_best(logits, visible.first, visible.last, top_k, TOP_K, relevant)
    flag_best(logits, visible.start, visible.stop, RECALL_KEYS, COLD_32, relevant)
    cold = np.zeros((3, *logits.shape[:2]))
    _cold_totals(mass, relevant, visible.start, visible.stop, cold)
    values = outputs = kept_output = None
    if capture.values is not None:
        values = capture.values[kv_head].astype(np.float32)
        outputs = mass @ values
        kept_output = np.zeros_like(outputs)
    kept_mass = np.zeros(logits.shape[:2])
    nothing = np.zeros((1, 1), np.float32), np.zeros((1, 1, 0), np.float32)
    _kept_totals(mass, visible.first, visible.start, visible.stop, visible.last,
                 *(nothing if values is None else (values, kept_output)), kept_mass)  # fmt: skip
    return SceneTruth(
        logits, mass, lse, relevant, values, outputs,
        np.count_nonzero(relevant & TOP_K, axis=-1), cold[1], cold[2], cold[0], kept_mass, kept_output,
    )  # fmt: skip


def budget_of(capture: LayerCapture, visible: ColdRange, ratios) -> Budget:
    """The budget of a text's queries; a capture without values counts values as wide as keys."""
    head_dim = capture.keys.shape[2]
    value_dim = head_dim if capture.values is None else capture.values.shape[2]
    return Budget(tuple(ratios), visible, ELEMENT_BYTES * (head_dim + value_dim))


def for_selector(selector: Selector, scene: Scene, truth: SceneTruth | None) -> Scene:
    """The scene as this selector may see it: exact scores for oracles alone."""
    return replace(scene, scores=truth.scores) if selector.kind == "oracle" else scene


@njit(cache=True, nogil=True, error_model="numpy")
def _cold_totals(mass, relevant, start, stop, out):
    """Mass, top-k keys and best cold keys among the cold keys."""
    for g in range(mass.shape[0]):
        for q in range(mass.shape[1]):
            for j in range(start[q], stop[q]):
                out[0, g, q] += mass[g, q, j]
                out[1, g, q] += relevant[g, q, j] & 1
                out[2, g, q] += (relevant[g, q, j] >> 1) & 1


@njit(cache=True, nogil=True, error_model="numpy")
def _kept_totals(mass, first, start, stop, last, values, output, total):
    """Mass and output of the visible keys that are not cold."""
    for g in range(mass.shape[0]):
        for q in range(mass.shape[1]):
            for j in range(first[q], last[q]):
                if start[q] <= j < stop[q]:
                    continue
                total[g, q] += mass[g, q, j]
                for c in range(output.shape[2]):
                    output[g, q, c] += mass[g, q, j] * values[j, c]
