"""How large a model is, without fetching or loading it: what a plan of memory, time and disk is made from.

The first of these that is there states it: the fetched model's `config.json`; that of a local folder, or the header of a GGUF
file; the file that `model.custom.shape` names; the entry of the model. What none of them states is assumed, and named.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

from ghostkv.sources.entries import ModelEntry
from ghostkv.sources.gguf_header import gguf_shape, read_gguf_header
from ghostkv.sources.model_files import read_json

# Where nothing states a shape: that of models of seven or eight billion parameters.
_ASSUMED = {"heads": 32, "kv_heads": 8, "head_dim": 128, "vocabulary": 128256}
# Words of the byte tokenizer of untrained models, and their feed-forward width over their width.
_BYTES, _RANDOM_RATIO = 257, 2
# Feed-forward width over width, where nothing states it, and bytes of a weight in a repository of the hub.
_RATIO, _HUB_BYTES = 3.5, 2
# What configs call the same thing.
_NAMES = {
    "heads": ("num_attention_heads", "n_head", "n_heads", "decoder_attention_heads", "num_heads"),
    "kv_heads": ("num_key_value_heads", "num_kv_heads"),
    "head_dim": ("global_head_dim", "qk_head_dim", "head_dim"),
    "width": ("hidden_size", "n_embd", "d_model", "emb_dim"),
    "inner": ("intermediate_size", "n_inner", "ffn_dim"),
    "vocabulary": ("vocab_size",),
    "layers": ("num_hidden_layers", "n_layer", "n_layers", "num_layers"),
    "experts": ("num_local_experts", "num_experts", "n_routed_experts"),
    "chosen": ("num_experts_per_tok", "moe_top_k"),
    "expert_inner": ("moe_intermediate_size",),
}
# Architectures whose feed-forward layers have no gate: two matrices, not three.
_UNGATED = ("gpt2", "gpt_neox", "opt", "phi", "bloom", "gptj", "gpt_neo", "falcon")
# Architectures whose layers slide by themselves where a window is stated: one layer in so many sees all, or (0) none does.
_SLIDING = {"mistral": 0, "mixtral": 0, "gemma2": 2, "gemma3_text": 6}
# Tensors of a GGUF file that no token is multiplied with in a layer.
_EMBEDDINGS = ("token_embd.weight", "output.weight")


@dataclass(frozen=True)
class ModelSize:
    """What of a model decides its cost.

    Attributes
    ----------
    layers, heads, kv_heads, head_dim, width
        Its shape; `width` is that of its hidden states.
    vocabulary : int
        Tokens that it knows.
    windows : tuple of int
        Tokens that each layer sees, 0 for all; empty where all layers see all tokens, or nothing says otherwise.
    parameters : int
        All of them.
    active : int
        Those that a token is multiplied with in every layer: embeddings left out, and experts that are not chosen.
    stored_bytes : int
        Its weights on disk, as the lab keeps them.
    download_bytes : int
        What is fetched for it; 0 where it is on this machine already.
    assumed : tuple of str
        What nothing states, and what was taken for it.
    """

    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    width: int
    vocabulary: int = 0
    windows: tuple[int, ...] = field(default=())
    parameters: int = 0
    active: int = 0
    stored_bytes: int = 0
    download_bytes: int = 0
    assumed: tuple[str, ...] = field(default=())


def size_of(entry: ModelEntry, folder: str | Path | None = None) -> ModelSize:
    """The size of a model.

    Parameters
    ----------
    entry : ModelEntry
        With its number of layers.
    folder : str or Path, optional
        Where the fetched model lies, or will; without it, the size is what was known before a fetch.

    Raises
    ------
    ModelError
        A file that should state the shape is no `config.json` and no GGUF file.
    """
    if folder is not None and Path(folder, "config.json").is_file():
        return fetched_size(folder)
    quantised = entry.source == "wheel"
    if entry.source == "random":
        found = {"vocabulary": _BYTES, "inner": _RANDOM_RATIO * entry.heads * entry.head_dim}
        found |= {"gated": entry.architecture not in _UNGATED}
        found |= {
            "windows": _windows(
                {"model_type": entry.architecture, "sliding_window": entry.window}, entry.layers
            )
        }
    elif place := entry.path or entry.shape:
        path = Path(place)
        quantised |= (gguf := path.suffix == ".gguf")
        found = _of_gguf(path) if gguf else _of_config(_config_of(path))
    else:
        found = {}
    stated, counted = (
        {name: getattr(entry, name) for name in names if getattr(entry, name) is not None}
        for names in (("layers", "heads", "kv_heads", "head_dim"), ("parameters", "active"))
    )
    known = {name: value for name, value in (stated | found | counted).items() if value is not None}
    size = _sized(known)
    # A GGUF file and untrained weights are kept as float32; others as they are published.
    stored = (4 if quantised or entry.source == "random" else _HUB_BYTES) * size["parameters"]
    fetched = round(entry.download_mb * 1e6) if entry.download_mb else _HUB_BYTES * size["parameters"]
    return ModelSize(
        **size, stored_bytes=stored, download_bytes=fetched if entry.source in ("wheel", "hub") else 0
    )


def fetched_size(folder: str | Path) -> ModelSize:
    """The size of a model that was fetched; raises ModelError where its `config.json` is none."""
    size = _sized(_of_config(_config_of(Path(folder))))
    weights = sum(file.stat().st_size for file in Path(folder).glob("*.safetensors"))
    return ModelSize(**size, stored_bytes=weights, download_bytes=0)


def _config_of(path: Path) -> Mapping[str, Any]:
    return read_json(path / "config.json" if path.is_dir() else path)


def _of_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a `config.json` states, by the names of this module."""
    inner = config.get("text_config")
    config = inner if isinstance(inner, dict) else config
    found = {name: _stated(config, name) for name in _NAMES}
    found["kv_heads"] = found["kv_heads"] or found["heads"]
    found["head_dim"] = head_dim_of(config)
    found["tied"] = config.get("tie_word_embeddings") is not False
    found["gated"] = config.get("model_type") not in _UNGATED
    found["windows"] = _windows(config, found["layers"])
    return {name: value for name, value in found.items() if value is not None}


def _windows(config: Mapping[str, Any], layers: int | None) -> tuple[int, ...]:
    """Tokens that each layer sees, 0 for all, as a `config.json` states it, or as its architecture implies; empty where all see all."""
    window, kinds = config.get("sliding_window"), config.get("layer_types")
    if type(window) is not int or not layers:
        return ()
    if not isinstance(kinds, list):
        # One layer in so many sees all.
        every = config.get("sliding_window_pattern", _SLIDING.get(config.get("model_type"), 1))
        kinds = [
            "full_attention" if every and layer % every == every - 1 else "sliding_attention"
            for layer in range(layers)
        ]
    found = tuple(window if kind == "sliding_attention" else 0 for kind in kinds)
    return found if any(found) else ()


def head_dim_of(config: Mapping[str, Any]) -> int | None:
    """Width of a head as a `config.json` of a language model states it, or as its width and heads imply; None where neither.

    Where layers with a sliding window have another width, it is that of the others, which are measured first of all.
    """
    kinds, own = config.get("layer_types"), config.get("per_layer_config")
    if isinstance(kinds, list) and isinstance(own, dict) and "full_attention" in kinds:
        of_layer = own.get(str(kinds.index("full_attention")))
        config = {**config, **(of_layer if isinstance(of_layer, dict) else {})}
    return _stated(config, "head_dim") or _quotient(_stated(config, "width"), _stated(config, "heads"))


def _stated(config: Mapping[str, Any], name: str) -> int | None:
    return next((config[key] for key in _NAMES[name] if type(config.get(key)) is int), None)


def _of_gguf(path: Path) -> dict[str, Any]:
    """What the header of a GGUF file states; the weights are not read."""
    shapes = read_gguf_header(path).shapes
    numbers = {name: prod(shape) for name, shape in shapes.items()}
    found = gguf_shape(path) | {"parameters": sum(numbers.values())}
    found["active"] = found["parameters"] - sum(numbers.get(name, 0) for name in _EMBEDDINGS)
    if embedding := shapes.get(_EMBEDDINGS[0]):
        found |= {"width": embedding[0], "vocabulary": embedding[1]}
    return {name: value for name, value in found.items() if name not in ("max_context", "attention_layers")}


def _quotient(width: int | None, heads: int | None) -> int | None:
    return width // heads if width and heads else None


def _sized(known: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of `ModelSize` that the model itself decides."""
    whole = known | {name: value for name, value in _ASSUMED.items() if name not in known}
    heads, kv_heads, head_dim = (whole[name] for name in ("heads", "kv_heads", "head_dim"))
    width = whole.get("width") or heads * head_dim
    inner = whole.get("inner") or int(_RATIO * width)
    attention = width * head_dim * 2 * (heads + kv_heads)
    matrices = 3 if whole.get("gated", True) else 2
    experts, chosen = whole.get("experts") or 1, whole.get("chosen") or 1
    forward = matrices * width * (whole.get("expert_inner", inner) if experts > 1 else inner)
    embedding = whole["vocabulary"] * width * (1 if whole.get("tied", False) else 2)
    body = whole["layers"] * (attention + experts * forward)
    parameters = whole.get("parameters") or body + embedding
    active = whole.get("active") or whole["layers"] * (attention + min(chosen, experts) * forward)
    # What is in no layer is embeddings, a row a token.
    stated = "vocabulary" in known or not {"parameters", "active"} <= set(known)
    vocabulary = whole["vocabulary"] if stated else (parameters - active) // width
    lacking = [
        name
        for name in _ASSUMED
        if name not in known and not (name == "vocabulary" and "parameters" in known)
    ]
    return {
        "layers": whole["layers"], "heads": heads, "kv_heads": kv_heads, "head_dim": head_dim, "width": width,
        "vocabulary": vocabulary, "windows": whole.get("windows", ()),
        "parameters": parameters, "active": min(active, parameters),
        "assumed": tuple(f"{name}: {_ASSUMED[name]}" for name in lacking),
    }  # fmt: skip
