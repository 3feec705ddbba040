"""Captured tensors that a lab already has: a folder of `.npz` or `.safetensors` files, read one layer at a
time.

Each file holds `q`, `k` and optionally `v`, of shape [tokens, head_dim] (one head) or [heads, tokens,
head_dim], float16 or float32. Its layer and head are the scalars `layer_idx` and `head_idx`, or are read from
a name such as `layer03_head05.npz` or `L3H5.npz`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ghostkv.captures.capture_files import LayerCapture
from ghostkv.elimination.attention import cold_range, scores
from ghostkv.files.blocks import query_blocks
from ghostkv.files.errors import CaptureError
from ghostkv.stages.capture.tensor_files import SUFFIXES, TensorFile, opened

_DTYPES = {"float16": np.float16, "float32": np.float32, "F16": np.float16, "F32": np.float32}
_TENSORS, _SCALARS = ("q", "k", "v"), ("layer_idx", "head_idx")


@dataclass(frozen=True)
class Part:
    """One file: which layer it belongs to, and which head where it holds one head."""

    path: Path
    layer: int
    head: int | None


@dataclass(frozen=True)
class ImportedLayer:
    """One layer of imported tensors, heads stacked."""

    layer: int
    queries: np.ndarray  # [heads, tokens, head_dim]
    keys: np.ndarray  # [kv_heads, tokens, head_dim]
    values: np.ndarray | None  # [kv_heads, tokens, value_dim]
    numbers: np.ndarray | None = None  # [heads]; where each head has a file of its own

    def first(self, tokens: int) -> ImportedLayer:
        """The first `tokens` tokens; under causal attention they know nothing of the rest."""
        values = None if self.values is None else self.values[:, :tokens]
        return replace(self, queries=self.queries[:, :tokens], keys=self.keys[:, :tokens], values=values)

    def capture(
        self, positions: np.ndarray, scale: float | None
    ) -> tuple[LayerCapture, dict[str, float | int | None]]:
        """The layer as a capture with queries at these positions, and its proof; a `scale` of None is
        1/sqrt(head_dim).

        Outputs, where there are values, are attention over the stored float16 K and V: there is no model whose own
        output could be recorded. The errors against it are None for that reason; `storage_relative_error` is
        measured.
        """
        scale = self.keys.shape[2] ** -0.5 if scale is None else scale
        keys = self.keys.astype(np.float16)
        values = None if self.values is None else self.values.astype(np.float16)
        queries = self.queries[:, positions].astype(np.float32)
        proof = dict.fromkeys(
            (
                "max_relative_error",
                "mean_relative_error",
                "layer_relative_error",
                "exact_relative_error",
                "unexplained_relative_error",
            )
        ) | {"storage_relative_error": None, "recomputed": 0}
        outputs = None
        if values is not None:
            outputs = _attend(queries, keys, values, positions, scale)
            unrounded = _attend(queries, self.keys, self.values, positions, scale)
            change = np.linalg.norm(outputs - unrounded, axis=-1)
            size = np.maximum(np.linalg.norm(unrounded, axis=-1), np.finfo(np.float32).tiny)
            proof["storage_relative_error"] = float((change / size).max())
        own = {"scale": scale, "numbers": self.numbers}
        return LayerCapture(
            self.layer, keys, values, queries, outputs, positions.astype(np.int32), **own
        ), proof


def layers_in(folder: str | Path) -> dict[int, list[Part]]:
    """Which layers a folder holds, and the files of each.

    Raises CaptureError where the folder is missing or empty, or a file does not say its layer.
    """
    folder = Path(folder)
    paths = sorted(path for path in folder.glob("*") if path.suffix in SUFFIXES) if folder.is_dir() else []
    if not paths:
        raise CaptureError(
            f"{folder}: {'no .npz or .safetensors file there' if folder.is_dir() else 'no such folder'}. "
            "Accepted: a folder of such files with tensors q, k and optionally v.\n  Write: import: "
            "[{folder: /data/qkv, domain: mine, role: held_out}]"
        )
    found: dict[int, list[Part]] = {}
    for path in paths:
        with opened(path) as file:
            layer, head = (file.index(name) for name in _SCALARS)
        if layer is None:
            raise CaptureError(
                f"{path}: neither a scalar `layer_idx` nor a layer in the file name. Accepted: either.\n"
                f"  Write: layer_idx=np.int64(3) into the file, or name it layer03_head05{path.suffix}"
            )
        found.setdefault(layer, []).append(Part(path, layer, head))
    _check_heads(folder, found)
    return dict(sorted(found.items()))


def heads_in(found: Mapping[int, list[Part]]) -> list[int]:
    """Numbers of the heads that have files of their own, ascending; none where a file holds all heads of a layer.

    Some heads of a model are enough.
    """
    return sorted({part.head for parts in found.values() for part in parts if part.head is not None})


@dataclass(frozen=True)
class StatedShape:
    """What the files of a layer state, before they are read and checked."""

    heads: int
    kv_heads: int
    head_dim: int
    value_dim: int  # 0 where there are no values
    tokens: int

    @classmethod
    def of(cls, parts: Sequence[Part]) -> StatedShape:
        """Heads of all files together, and the rest as the first file has it. Raises CaptureError where one lacks q or k."""
        stated: list[dict[str, tuple[int, ...]]] = []
        for part in parts:
            with opened(part.path) as file:
                _refuse_lacking(file)
                shapes = {name: file.describe(name)[1] for name in _TENSORS if name in file.names}
            stated.append({name: (1, 1, 1, *shape)[-3:] for name, shape in shapes.items()})
        heads, kv_heads = (sum(one[name][0] for one in stated) for name in ("q", "k"))
        _, tokens, width = stated[0]["q"]
        return cls(heads, kv_heads, width, stated[0].get("v", (0,))[-1], tokens)


def _check_heads(folder: Path, found: Mapping[int, list[Part]]) -> None:
    """Refuse layers of different heads: the same number would be another head of the model in each."""
    every = heads_in(found)
    for layer, parts in found.items():
        lacking = sorted(set(every) - {part.head for part in parts})
        if lacking and any(part.head is not None for part in parts):
            raise CaptureError(
                f"{folder}: layer {layer} has no file for head {', '.join(map(str, lacking))}, which other layers have. "
                f"Accepted: the same heads in every layer, here {every}.\n  Write: that file, or take that head out"
            )


def load_layer(found: Mapping[int, list[Part]], layer: int) -> ImportedLayer:
    """Read and check all files of one of the layers that `layers_in` found.

    Raises CaptureError where the layer is absent, a tensor is malformed, or the files of the layer do not fit
    together.
    """
    if layer not in found:
        raise CaptureError(
            f"imported tensors: no layer {layer}. Found: layers {list(found)}.\n  Write: layers: "
            f"{list(found)}   under capture"
        )
    parts = found[layer]
    tensors = [_read(part) for part in parts]
    if len(parts) == 1 and parts[0].head is None:
        return _layer(layer, tensors[0])
    for part, tensor in zip(parts, tensors, strict=True):
        if part.head is None or tensor["q"].shape[0] != 1 or tensor["k"].shape[0] != 1:
            raise CaptureError(
                f"{part.path}: layer {layer} has {len(parts)} file(s), and this one holds "
                f"{tensor['q'].shape[0]} head(s) and says "
                f"{'no head' if part.head is None else f'head {part.head}'}. Accepted: one "
                "file with all heads of the layer, or one file a head.\n  Write: q and k of shape [tokens, "
                "head_dim] and head_idx, or one file a layer without head_idx"
            )
    pairs = sorted(zip(parts, tensors, strict=True), key=lambda pair: pair[0].head)
    for (one, _), (other, _) in zip(pairs, pairs[1:], strict=False):
        if one.head == other.head:
            raise CaptureError(
                f"{other.path}: layer {layer} has head {other.head} in {one.path.name} too. Accepted: each head once.\n"
                "  Take one of them out of the folder"
            )
    first_part, first = pairs[0]
    for part, tensor in pairs:
        shapes, wanted = ({n: t.shape[1:] for n, t in one.items()} for one in (tensor, first))
        if shapes != wanted:
            raise CaptureError(
                f"{part.path}: holds {shapes}, but {first_part.path.name} holds {wanted}. "
                "Accepted: the same tensors and shapes [tokens, head_dim] for all heads of a layer."
            )
    numbers = np.array([part.head for part, _ in pairs], np.int16)
    return _layer(
        layer, {key: np.concatenate([tensor[key] for _, tensor in pairs]) for key in first}, numbers
    )


def _layer(layer: int, tensors: Mapping[str, np.ndarray], numbers: np.ndarray | None = None) -> ImportedLayer:
    return ImportedLayer(layer, tensors["q"], tensors["k"], tensors.get("v"), numbers)


def _read(part: Part) -> dict[str, np.ndarray]:
    """The tensors of one file, checked, all of shape [heads, tokens, width]."""
    with opened(part.path) as file:
        names = set(file.names)
        _refuse_lacking(file)
        # A misspelt `v` would otherwise quietly become a capture without values.
        unknown = sorted(n for n in names - {*_TENSORS, *_SCALARS} if len(file.describe(n)[1]) >= 2)
        if unknown:
            raise CaptureError(
                f"{part.path}: tensors {unknown} are not known. Accepted: q, k, optionally v, layer_idx, head_idx.\n"
                "  Write: v for values, and leave other tensors out"
            )
        tensors = {name: _tensor(file, name) for name in _TENSORS if name in names}
    _check_fit(part.path, tensors)
    return tensors


def _refuse_lacking(file: TensorFile) -> None:
    for name in ("q", "k"):
        if name not in file.names:
            raise CaptureError(
                f"{file.path}: no tensor `{name}`; it holds {file.names}. Accepted: q, k, optionally v, layer_idx, "
                f"head_idx.\n  Write: the post-RoPE {'queries' if name == 'q' else 'keys'} under the name {name}"
            )


def _check_fit(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    shapes = {name: list(tensor.shape) for name, tensor in tensors.items()}
    (heads, tokens, width), (kv_heads, key_tokens, key_width) = tensors["q"].shape, tensors["k"].shape
    if (key_tokens, key_width) != (tokens, width):
        raise CaptureError(
            f"{path}: q and k of shapes {shapes['q']} and {shapes['k']}. Accepted: the same tokens and head_dim.\n"
            f"  Write: k of shape [{kv_heads}, {tokens}, {width}]"
        )
    if heads % kv_heads:
        raise CaptureError(
            f"{path}: q has {heads} heads and k has {kv_heads}. Accepted: a number of query heads that the "
            "KV heads divide.\n"
            f"  Write: k of shape [{heads}, {tokens}, {width}], or fewer KV heads that divide {heads}"
        )
    if "v" in tensors and tensors["v"].shape[:2] != (kv_heads, tokens):
        raise CaptureError(
            f"{path}: v of shape {shapes['v']} beside k of shape {shapes['k']}. Accepted: the same heads and "
            "tokens as k.\n"
            f"  Write: v of shape [{kv_heads}, {tokens}, value_dim], or leave v out (mass metrics only)"
        )


def _tensor(file: TensorFile, name: str) -> np.ndarray:
    dtype, shape = file.describe(name)
    if dtype not in _DTYPES:
        raise CaptureError(
            f"{file.path}: `{name}` is of type {dtype}. Accepted: float16, float32.\n  Write: "
            f"{name}.astype(np.float16) or float32"
        )
    if len(shape) not in (2, 3) or 0 in shape:
        raise CaptureError(
            f"{file.path}: `{name}` has shape {list(shape)}. Accepted: [tokens, head_dim] or [heads, tokens, "
            "head_dim], none empty.\n"
            f"  Write: {name}[0] if the first axis is a batch of one"
        )
    tensor = file.read(name)
    tensor = tensor[None] if tensor.ndim == 2 else tensor
    if not np.isfinite(tensor).all():
        raise CaptureError(f"{file.path}: `{name}` holds NaN or infinity. Accepted: finite numbers.")
    if name != "q" and np.abs(tensor).max() > np.finfo(np.float16).max:
        raise CaptureError(
            f"{file.path}: `{name}` reaches {np.abs(tensor).max():.6g}, beyond float16 (65504), in which "
            "captures are stored. Accepted: components within it."
        )
    return tensor


def _attend(
    queries: np.ndarray, keys: np.ndarray, values: np.ndarray, positions: np.ndarray, scale: float
) -> np.ndarray:
    """Causal attention of shape [heads, queries, value_dim], float32, one KV head at a time."""
    visible = cold_range(positions, np.zeros_like(positions), sinks=0, hot=0)
    outputs = np.empty((*queries.shape[:2], values.shape[-1]), np.float32)
    group = len(queries) // len(keys)
    for head, (k, v) in enumerate(zip(keys, values, strict=True)):
        k, v, own = k.astype(np.float32), v.astype(np.float32), slice(head * group, (head + 1) * group)
        for block in query_blocks(len(positions), group, len(k)):
            logits = scores(queries[own, block], k, scale, visible=visible.at(block))
            weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
            outputs[own, block] = (weights @ v) / weights.sum(axis=-1, keepdims=True)
    return outputs
