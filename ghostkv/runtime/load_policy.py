"""Policies from a config entry and the files of earlier stages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ghostkv.captures.capture_files import LayerCapture, read_layer
from ghostkv.codecs.nested import Nested
from ghostkv.codecs.records import CodecSpec, load_codecs
from ghostkv.codecs.transform_code import TransformCode
from ghostkv.elimination.thresholds import calibrated_thetas
from ghostkv.files.buffers import Buffers
from ghostkv.files.errors import ConfigError
from ghostkv.files.io import read_table, stable_seed
from ghostkv.runtime.certified import CertifiedMass
from ghostkv.runtime.deciders import Decider, GhostFrames
from ghostkv.runtime.policy import Policy, ghost_policy
from ghostkv.runtime.policy_fit import fit_theta
from ghostkv.runtime.seated import OracleMass, Seated
from ghostkv.selectors import make
from ghostkv.selectors.base import Calibration, Selector
from ghostkv.selectors.scenes import budget_of, calibration_view

KINDS = ("full", "identity", "ghost", "calibrated", "certified_mass", "oracle_mass", "selector")
# Bits a coordinate of the nested record's levels, and the shares of the budget: those of the certificates stage.
LEVELS, SHARES = (1.0, 1.0, 1.0, 1.0, 2.0, 2.0), (0.03, 0.08, 0.16, 0.32, 0.6, 0.97)
HEADLINE_CODEC = TransformCode.name
_COMMON = ("policy", "label", "dense_layers", "sinks", "hot", "prefill", "shared")
_OPTIONS = {
    "full": (),
    "identity": ("codec", "code_bytes"),
    "ghost": ("ratio", "theta", "codec", "code_bytes", "compensate"),
    "calibrated": ("target_metric", "target", "codec", "code_bytes", "compensate"),
    "certified_mass": ("delta", "compensate", "levels", "shares"),
    "oracle_mass": ("delta",),
    "selector": ("selector", "ratio"),
}


@dataclass(frozen=True)
class Sources:
    """Where a policy's fitted parts come from.

    Attributes
    ----------
    layers : sequence of int
        All layers of the model.
    sketch : Path or None
        ``results/sketch``: holds ``layer_XX/codecs.safetensors``.
    captures : sequence of mapping
        Every capture with `text`, `domain`, `role` and `folder`; roles `codec` and `threshold` are read.
    points : Path or None
        ``results/frontier/points.parquet``, for calibrated thetas.
    start : int
        First query position that thresholds are fitted at.
    """

    layers: Sequence[int]
    heads: int
    sketch: Path | None = None
    captures: Sequence[Mapping[str, str]] = ()
    points: Path | None = None
    start: int = 0

    @classmethod
    def of(cls, results: str | Path, start: int = 0) -> Sources:
        """From a results folder, with all captures it holds."""
        results = Path(results)
        texts = {
            row["text"]: row for row in read_table(results / "texts/texts.parquet").iter_rows(named=True)
        }
        captures = [
            {key: texts[folder.name][key] for key in ("text", "domain", "role")} | {"folder": str(folder)}
            for folder in sorted((results / "capture").iterdir())
            if folder.name in texts and (folder / "layers.parquet").exists()
        ]
        described = read_table(Path(captures[0]["folder"]) / "layers.parquet")
        return cls(
            described["layer"].to_list(), int(described["heads"][0]), results / "sketch", captures,
            results / "frontier/points.parquet", start,
        )  # fmt: skip

    def codecs(self, layer: int, code_bytes: int, name: str = HEADLINE_CODEC) -> list[Any]:
        """The sketch stage's fitted codec of each KV head."""
        if self.sketch is None:
            raise ConfigError(
                "policy: no sketch folder, and ghost records need its codecs. Run: snakemake frontier"
            )
        spec = CodecSpec(name, code_bytes)
        found = load_codecs(Path(self.sketch) / f"layer_{layer:02d}" / "codecs.safetensors", [spec])
        return [found[spec, head] for head in range(len(found))]

    def texts(self, role: str, layer: int) -> list[LayerCapture]:
        """One layer of every capture of a role."""
        found = [read_layer(text["folder"], layer) for text in self.captures if text["role"] == role]
        if not found:
            raise ConfigError(f"texts: no text has the role {role!r}; set texts.per_role.{role}: 1")
        return found


def load_policy(entry: Mapping[str, Any], sources: Sources) -> Policy:
    """Build a policy from a config entry.

    Parameters
    ----------
    entry : mapping
        ``policy`` is one of `KINDS`. All kinds take ``label``, ``dense_layers``, ``sinks``, ``hot``, ``prefill`` and
        ``shared``; besides, ``identity``: ``codec`` (one that the sketch stage fits), ``code_bytes``; ``ghost``: these,
        ``ratio`` (GQA-true bytes of the whole model, dense layers included) or ``theta``, and ``compensate``;
        ``calibrated``: ``codec``, ``code_bytes``, ``target_metric``, ``target``, ``compensate``; ``certified_mass``:
        ``delta``, ``compensate``, ``levels``, ``shares``; ``oracle_mass``: ``delta``; ``selector``: ``selector`` (an entry
        of `peers.selectors`) and ``ratio`` (bytes of each head of the layers that are not dense).
    sources : Sources

    Raises
    ------
    ConfigError
        Unknown kind or option, or a budget that index and kept keys alone exceed.
    TableError
        A file of an earlier stage is missing.
    """
    kind = entry.get("policy")
    if kind not in KINDS:
        raise ConfigError(
            f"policy: no kind {kind!r}. Accepted: {', '.join(KINDS)}.\n  Write: policy: ghost, ratio: 0.3"
        )
    unknown = sorted(set(entry) - {*_COMMON, *_OPTIONS[kind]})
    if unknown:
        accepted = ", ".join((*_OPTIONS[kind], *_COMMON[1:]))
        raise ConfigError(f"policy: {kind} has no option {unknown[0]!r}. Accepted: {accepted}.")
    options = {key: entry[key] for key in ("sinks", "hot", "prefill", "shared") if key in entry}
    dense = tuple(sources.layers) if kind == "full" else tuple(entry.get("dense_layers", ()))
    options |= {"dense_layers": dense, "about": dict(entry)}
    active = [layer for layer in sources.layers if layer not in dense]
    name = entry.get("label") or kind
    if kind in ("full", "certified_mass", "oracle_mass", "selector"):
        deciders, certificate = _seats(kind, entry, sources, active)
        return Policy(name, deciders, certificate=certificate, **options)
    size, compensate = int(entry.get("code_bytes", 8)), bool(entry.get("compensate", True))
    codec = entry.get("codec", HEADLINE_CODEC)
    frames = {layer: GhostFrames.of(sources.codecs(layer, size, codec)) for layer in active}
    certificate, theta = "none", -np.inf
    if kind == "identity":
        certificate = "nothing is eliminated"
    elif kind == "ghost":
        theta = (
            entry["theta"]
            if "theta" in entry
            else fit_budgets(entry, sources, [entry["ratio"]])[entry["ratio"]]
        )
    else:
        metric, target = entry.get("target_metric", "dropped_mass"), float(entry.get("target", 0.01))
        theta = calibrated_thetas(sources.points, CodecSpec(codec, size), "relative_lse", metric, target)
        certificate = f"calibrated: mean {metric} <= {target:g}, on average over exchangeable queries"
    per_key = kind == "ghost"
    return ghost_policy(
        frames, theta, sources.heads, compensate, per_key, name, certificate=certificate, **options
    )


def fit_budgets(entry: Mapping[str, Any], sources: Sources, ratios: Sequence[float]) -> dict[float, float]:
    """Thetas of a `ghost` entry for several bytes ratios at once; put one into the entry as ``theta``."""
    size, dense = int(entry.get("code_bytes", 8)), tuple(entry.get("dense_layers", ()))
    codec = entry.get("codec", HEADLINE_CODEC)
    layers = (
        (sources.texts("threshold", layer), None if layer in dense else sources.codecs(layer, size, codec))
        for layer in sources.layers
    )
    about = {"sinks": entry.get("sinks", 4), "hot": entry.get("hot", 64), "start": sources.start}
    # Bytes are GQA-true whether heads share survivors or not: the union is read.
    return dict(fit_theta(layers, ratios, **about))


def _seats(
    kind: str, entry: Mapping[str, Any], sources: Sources, active: Sequence[int]
) -> tuple[dict[int, Decider], str]:
    if kind == "full":
        return {}, "nothing is eliminated"
    if kind == "selector":
        seated = {layer: _seated(entry, sources, layer) for layer in active}
        return seated, "none"
    delta = float(entry.get("delta", 0.01))
    certificate = f"dropped mass <= {delta:g} for every query"
    if kind == "oracle_mass":
        return {layer: OracleMass(delta) for layer in active}, certificate + " (exact scores)"
    shares, compensate = tuple(entry.get("shares", SHARES)), bool(entry.get("compensate", True))
    found = {
        layer: CertifiedMass(_nested(sources, layer, entry.get("levels", LEVELS)), delta, shares, compensate)
        for layer in active
    }
    return found, certificate


def _nested(sources: Sources, layer: int, bits: Sequence[float]) -> list[Nested]:
    captures = sources.texts("codec", layer)
    width = captures[0].keys.shape[2]
    levels = [max(1, round(each * width / 8)) for each in bits]
    # The last planes fill what a float16 key would take, residual bytes included.
    levels.append(max(1, 2 * width - sum(levels) - len(levels) - 1))
    return [
        Nested.of(tuple(levels)).fit(
            np.concatenate([one.keys[head] for one in captures]),
            np.concatenate([one.group_queries(head).reshape(-1, width) for one in captures]),
        )
        for head in range(captures[0].kv_heads)
    ]


def _seated(entry: Mapping[str, Any], sources: Sources, layer: int) -> Seated:
    """A selector of the peers list, fitted as the peers stage fits it."""
    name, selector = make(entry["selector"])
    ratio, codecs, fitted = float(entry["ratio"]), {}, None
    size = getattr(selector, "code_bytes", None)
    if size is not None:
        codecs[HEADLINE_CODEC, size] = sources.codecs(layer, size)
    if type(selector).fit is Selector.fit:
        kv_heads = int(read_table(Path(sources.captures[0]["folder"]) / "layers.parquet")["kv_heads"][0])
        fitted = [None] * kv_heads
    else:
        calibration, threshold = sources.texts("codec", layer), sources.texts("threshold", layer)
        exact = {"sinks": entry.get("sinks", 4), "hot": entry.get("hot", 64), "headline_start": sources.start}
        fitted = [
            selector.fit(_calibration(calibration, threshold, codecs, exact, ratio, layer, head))
            for head in range(calibration[0].kv_heads)
        ]
    return Seated(selector, fitted, ratio, name, codecs)


def _calibration(calibration, threshold, codecs, exact, ratio, layer, head) -> Calibration:
    return Calibration(
        np.concatenate([one.keys[head].astype(np.float32) for one in calibration]),
        np.concatenate([one.group_queries(head) for one in calibration], axis=1),
        _Scenes(threshold, codecs, exact, ratio, head),
        stable_seed(0, layer, head),
    )


@dataclass(frozen=True)
class _Scenes:
    """Threshold texts one after the other; may be gone through again."""

    captures: Sequence[LayerCapture]
    codecs: Mapping
    exact: Mapping[str, int]
    ratio: float
    head: int

    def __iter__(self):
        for capture in self.captures:

            def records(name: str, size: int, capture=capture):
                codec = self.codecs[name, size][self.head]
                return codec, codec.decode(codec.encode(capture.keys[self.head]))

            scene = calibration_view(capture, self.head, self.exact, records, Buffers())
            yield scene, budget_of(capture, scene.visible, [self.ratio])
