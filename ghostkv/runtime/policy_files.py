"""Fitted policies as one file, which other processes and machines load: no captures, no results folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from operator import index
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from ghostkv.codecs.by_name import make as make_codec
from ghostkv.codecs.nested import Nested
from ghostkv.files.errors import ConfigError, TableError
from ghostkv.files.tensors import load_tensors, save_tensors
from ghostkv.runtime.certified import CertifiedMass
from ghostkv.runtime.deciders import Decider
from ghostkv.runtime.fused_attention import EstimateFrames
from ghostkv.runtime.fused_records import RecordFrames
from ghostkv.runtime.ghost_decider import GhostDecider, GhostFrames, ghost_decider
from ghostkv.runtime.packed_attention import StepRooms
from ghostkv.runtime.partly_dense import PartlyDense
from ghostkv.runtime.policy import Policy

# What the file calls itself, wherever it lies.
_NAME = "ghostkv policy"
_OPTIONS = ("name", "dense_layers", "sinks", "hot", "prefill", "shared", "certificate")


@dataclass(frozen=True)
class FittedPolicy(Policy):
    """A policy of ghost records or of certified mass, which can be kept."""

    def save(self, path: str | Path) -> None:
        """Write it as one safetensors file, which `ghostkv.load` reads on any machine.

        Raises
        ------
        ConfigError
            It has deciders of another kind: a peer is named in a config. Or `path` names no file.
        """
        _refuse_no_path(path, "save")
        tensors, kinds = {}, {}
        for layer, decider in self.deciders.items():
            kinds[layer], arrays = _packed(decider)
            tensors |= {f"{layer}/{name}": array for name, array in arrays.items()}
        about = {name: getattr(self, name) for name in _OPTIONS} | {"deciders": kinds}
        tensors["policy"] = np.frombuffer(json.dumps(about, sort_keys=True).encode(), np.uint8)
        save_tensors(tensors, path, {}, _NAME)


def load(path: str | Path) -> FittedPolicy:
    """Read what `FittedPolicy.save` wrote.

    Raises
    ------
    TableError
        The file is missing or damaged, holds no policy, or one of another version.
    ConfigError
        `path` names no file.
    """
    _refuse_no_path(path, "load")
    try:
        tensors = load_tensors(path, _NAME)
    except TableError as error:
        # No rule makes this file anew, and what was named by mistake is not to be removed.
        raise TableError(
            f"{str(error).splitlines()[0]}\n  Write: policy.save(path) again, or the path of a file that it wrote"
        ) from None
    try:
        return _policy(tensors)
    except (KeyError, ValueError, TypeError) as error:
        raise TableError(
            f"{path}: another version of ghostkv wrote this policy ({type(error).__name__}: {error}). Accepted: files of this "
            "version.\n  Fit the policy again and save it"
        ) from error


def _policy(tensors: dict[str, np.ndarray]) -> FittedPolicy:
    """The policy of a file's tensors. What a file of another version lacks is a KeyError, ValueError or TypeError."""
    about = json.loads(bytes(tensors.pop("policy")))
    by_layer: dict[int, dict[str, np.ndarray]] = {}
    for name, array in tensors.items():
        layer, _, field = name.partition("/")
        by_layer.setdefault(int(layer), {})[field] = array
    # What the layers share.
    every = {"shared": about["shared"], "rooms": StepRooms()}
    kinds = {int(layer): kind | every for layer, kind in about.pop("deciders").items()}
    deciders = {layer: _decider(kind, by_layer[layer]) for layer, kind in kinds.items()}
    return FittedPolicy(deciders=deciders, **about | {"dense_layers": tuple(about["dense_layers"])})


def _decider(kind: Mapping[str, Any], arrays: dict[str, np.ndarray]) -> Decider:
    decider = _READERS[kind["kind"]](kind, arrays)
    return PartlyDense(decider, tuple(map(index, kind["dense"]))) if "dense" in kind else decider


def _refuse_no_path(path: Any, verb: str) -> None:
    if not isinstance(path, str | PathLike) or Path(path).is_dir():
        raise ConfigError(
            f"{verb}: {path!r} is no path of a file. Accepted: one such as policy.safetensors.\n"
            f'  Write: {"policy" if verb == "save" else "ghostkv"}.{verb}("policy.safetensors")'
        )


def _packed(decider: Decider) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What a decider is, and its arrays."""
    if isinstance(decider, PartlyDense):
        kind, arrays = _packed(decider.decider)
        return kind | {"dense": list(decider.dense)}, arrays
    if isinstance(decider, GhostDecider):
        frames = decider.frames
        kind = {
            "kind": "ghost", "compensate": decider.compensate, "per_key": decider.per_key,
            "record_bytes": frames.record_bytes,
        }  # fmt: skip
        if frames.codecs:
            codec = frames.codecs[0]
            kind |= {"kind": "coded", "codec": codec.name, "code_bytes": codec.code_bytes}
            arrays = {
                f"{head}/{name}": array
                for head, one in enumerate(frames.codecs)
                for name, array in one.arrays().items()
            }
            return kind, arrays | {"theta": decider.theta}
        arrays = frames.writing._asdict()
        rows = _rows(arrays["metric"], arrays["encoder"], arrays["dims"])
        if rows is not None:
            del arrays["encoder"]
            arrays["rows"] = rows
        return kind, arrays | {"theta": decider.theta}
    if isinstance(decider, CertifiedMass):
        kind = {
            "kind": "certified_mass", "delta": decider.delta, "shares": list(decider.shares),
            "compensate": decider.compensate, "levels": list(decider.codecs[0].levels),
        }  # fmt: skip
        # All KV heads of a layer in one array: a file names fewer.
        each = [codec.arrays() for codec in decider.codecs]
        return kind, {name: np.stack([arrays[name] for arrays in each]) for name in each[0]}
    raise ConfigError(
        f"policy: a decider of kind {decider.name} cannot be saved. Accepted: policies of ghost records and of certified mass, "
        "as ghostkv.fit makes them; others are named in a config."
    )


def _rows(metric: np.ndarray, encoder: np.ndarray, dims: np.ndarray) -> np.ndarray | None:
    """Which row of the metric each coordinate's encoder is, int16 [kv_heads, dims], -1 beyond; None if it is none.

    The encoder of a query-aware frame is a part of its metric, which takes half of the file.
    """
    rows = np.full(encoder.shape[:2], -1, np.int16)
    for head in range(len(metric)):
        alike = (encoder[head, : dims[head], None] == metric[head][None]).all(axis=2)
        if not alike.any(axis=1).all():
            return None
        rows[head, : dims[head]] = alike.argmax(axis=1)
    return rows


def _ghost(kind: Mapping[str, Any], arrays: dict[str, np.ndarray]) -> GhostDecider:
    theta, rows = arrays.pop("theta"), arrays.pop("rows", None)
    if rows is not None:
        heads = np.arange(len(rows))[:, None]
        arrays["encoder"] = np.where(rows[..., None] >= 0, arrays["metric"][heads, rows], 0.0)
    writing = RecordFrames(**arrays)
    reading = EstimateFrames(
        offset=writing.mean.astype(np.float32), decoder=writing.decoder.astype(np.float32), dims=writing.dims
    )
    frames = GhostFrames(writing, reading, kind["record_bytes"])
    return ghost_decider(
        frames, theta, *(kind[name] for name in ("compensate", "per_key", "shared", "rooms"))
    )


def _coded(kind: Mapping[str, Any], arrays: dict[str, np.ndarray]) -> GhostDecider:
    theta, by_head = arrays.pop("theta"), {}
    for name, array in arrays.items():
        head, _, field = name.partition("/")
        by_head.setdefault(int(head), {})[field] = array
    codecs = [
        make_codec(kind["codec"], kind["code_bytes"]).load(by_head[head]) for head in range(len(by_head))
    ]
    named = (kind[name] for name in ("compensate", "per_key", "shared", "rooms"))
    return ghost_decider(GhostFrames.of(codecs), theta, *named)


def _certified(kind: Mapping[str, Any], arrays: dict[str, np.ndarray]) -> CertifiedMass:
    heads = range(len(arrays["mean"]))
    levels = tuple(kind["levels"])
    codecs = [
        Nested.of(levels).load({name: stacked[head] for name, stacked in arrays.items()}) for head in heads
    ]
    return CertifiedMass(codecs, kind["delta"], tuple(kind["shares"]), kind["compensate"])


_READERS = {"ghost": _ghost, "coded": _coded, "certified_mass": _certified}
