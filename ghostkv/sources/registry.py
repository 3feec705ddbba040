"""Which models and domains there are, and the models' shape, without fetching or loading anything.

The workflow plans one job per layer, and the bytes of its records, before a model exists on disk. So the number of layers
and head_dim come from `resources/models.yaml`, from the config, or from the `config.json` of a local folder. torch and
transformers are not imported.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from ghostkv.config.base import Section
from ghostkv.config.messages import explain
from ghostkv.config.words import read_yaml
from ghostkv.files.errors import ConfigError, ModelError
from ghostkv.sources.documents import TextSource
from ghostkv.sources.entries import ModelEntry
from ghostkv.sources.gguf_header import gguf_shape
from ghostkv.sources.model_files import model_files, read_json
from ghostkv.sources.model_size import head_dim_of

# What configs call the number of layers and the list of their kinds, and kinds that attend to all keys or to a window.
_DEPTHS = ("num_hidden_layers", "decoder_layers", "num_decoder_layers", "n_layer", "n_layers", "num_layers")
_KINDS = ("layer_types", "layers_block_type")
_ATTENTION = ("attention", "full_attention", "sliding_attention")
_Entry = TypeVar("_Entry", bound=Section)
# Of a random model, a twelfth or so of its numbers: beyond it, it takes more memory than machines have.
_LARGEST = 1 << 31
_RANDOM = {"layers": 2, "heads": 4, "head_dim": 16, "max_context": 4096, "seed": 0, "license": "none"}


def read_models(models_yaml: str | Path = "resources/models.yaml") -> dict[str, ModelEntry]:
    """All listed models by name; ConfigError where the file is missing, no YAML, or an entry has a faulty key."""
    return _read_list(models_yaml, ModelEntry)


def resolve_model(
    name: str, custom: Mapping[str, Any] | None = None, models_yaml: str | Path = "resources/models.yaml"
) -> ModelEntry:
    """The model that the config names, with its number of layers and its head_dim.

    Config `model.name` is a listed name, or any new one beside `model.custom`, the entry of a model that is not
    listed. Of the result `layers` and `head_dim` are always set; the rest of the shape where it is stated or a local file
    tells it.

    Raises ConfigError for an unknown name, a custom model under a listed name, a faulty entry, or layers or a head_dim that
    nothing tells; ModelError for a local folder or GGUF file that is missing or is no model.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        safe = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "mine"
        raise ConfigError(
            f"config: model.name is {name!r}. Accepted: letters, digits, dot, dash and underscore, as a "
            f"folder is named by it.\n  Write: name: {safe}"
        )
    listed = read_models(models_yaml)
    if custom is None and name not in listed:
        near = difflib.get_close_matches(name, listed, n=1, cutoff=0.4)
        hint = f"Did you mean {near[0]}? Write: name: {near[0]}   (under model), or for" if near else "For"
        raise ConfigError(
            f"config: model.name is {name}, which {models_yaml} does not list. "
            f"Accepted: {', '.join(listed)}.\n  {hint} a model of your own write: "
            "model: {name: mine, custom: {source: hub, id: Qwen/Qwen2.5-0.5B, layers: 24, head_dim: 64}}"
        )
    if custom is not None and name in listed:
        raise ConfigError(
            f"config: model.name is {name}, which {models_yaml} lists already, and model.custom is set too.\n"
            f"  Write: name: my-{name}   (a new name for the custom model), or remove custom"
        )
    return _with_shape(
        _beside(listed[name], models_yaml)
        if custom is None
        else _entry(custom, ModelEntry, "config: model.custom")
    )


def _beside(entry: ModelEntry, models_yaml: str | Path) -> ModelEntry:
    """A listed model, whose shape stands in a file beside the list."""
    return (
        entry
        if entry.shape is None
        else entry.model_copy(update={"shape": str(Path(models_yaml).parent / entry.shape)})
    )


def read_sources(texts_yaml: str | Path = "resources/texts.yaml") -> dict[str, TextSource]:
    """All listed domains by name; ConfigError as for `read_models`."""
    return _read_list(texts_yaml, TextSource)


def check_domains(domains: Iterable[str], texts_yaml: str | Path = "resources/texts.yaml") -> None:
    """Refuse domains that are not listed, before anything is fetched; the message lists the known ones."""
    listed = read_sources(texts_yaml)
    for domain in domains:
        if domain not in listed:
            near = difflib.get_close_matches(domain, listed, n=1, cutoff=0.4)
            hint = f"Did you mean {near[0]}? Or for" if near else "For"
            raise ConfigError(
                f"config: texts.domains names {domain}, which {texts_yaml} does not list. "
                f"Accepted: {', '.join(listed)}.\n  {hint} a text of your own write: "
                f"custom: [{{domain: {domain}, role: held_out, path: /data/mine.txt}}]   (under texts)"
            )


def shape_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Layers, attention_layers, head_dim and max_context as far as a model's `config.json` states them.

    GPT-2's own key names are understood, those of decoders that have an encoder beside them, and the `text_config` of
    multimodal models. What a fetch finds by running the model must be the same; the rest is found there alone.
    """
    inner = config.get("text_config")
    config = inner if isinstance(inner, dict) else config

    def first(*keys: str) -> int | None:
        return next((config[key] for key in keys if type(config.get(key)) is int), None)

    kinds = next((config[key] for key in _KINDS if isinstance(config.get(key), list)), [])
    attending = tuple(layer for layer, kind in enumerate(kinds) if kind in _ATTENTION)
    found = {
        "layers": first(*_DEPTHS) or len(kinds) or None,
        # Without a word of it, every layer attends.
        "attention_layers": attending if 0 < len(attending) < len(kinds) else None,
        "head_dim": head_dim_of(config),
        "max_context": first("max_position_embeddings", "n_positions", "n_ctx"),
    }
    return {key: value for key, value in found.items() if value is not None}


def _read_list(path: str | Path, kind: type[_Entry]) -> dict[str, _Entry]:
    return {name: _entry(entry, kind, f"{path}: {name}") for name, entry in read_yaml(path).items()}


def _entry(raw: Any, kind: type[_Entry], where: str) -> _Entry:
    try:
        return kind.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(explain(error, kind, where)) from None
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def _with_shape(entry: ModelEntry) -> ModelEntry:
    if entry.source == "random":
        defaults = _RANDOM | {"kv_heads": entry.heads or 4}
        return _possible(_filled(entry, defaults))
    if entry.source == "path":
        entry = _filled(entry, _local_shape(entry))
        # What a file states has the ranges of what the config states.
        entry = _entry(
            entry.plain(), ModelEntry, f"config: model.custom.path: {entry.path} states a shape that"
        )
    if entry.shape is not None:
        entry = _filled(entry, _stated_shape(Path(entry.shape)))
    lacking = {
        "layers": (entry.layers, "how many layers", "layers: 24   (num_hidden_layers in its config.json)"),
        "head_dim": (
            entry.head_dim,
            "what head_dim",
            "head_dim: 64   (head_dim in its config.json, or hidden_size over heads)",
        ),
    }
    for key, (stated, what, write) in lacking.items():
        if stated is None:
            raise ConfigError(
                f"config: model.custom.{key} is missing, and nothing tells {what} {entry.origin()} has before it is fetched.\n"
                f"  Write: {write}, or shape: config.json"
            )
    return entry


def _possible(entry: ModelEntry) -> ModelEntry:
    """A random model as it is, once it is known to be one that can be made."""
    single, numbers = (
        entry.architecture in ("gpt2", "gpt_neox"),
        entry.layers * (entry.heads * entry.head_dim) ** 2,
    )
    faults = {
        "kv_heads": (single and entry.kv_heads != entry.heads, "as many as heads", entry.heads),
        "heads": (
            entry.heads % entry.kv_heads,
            f"a multiple of kv_heads: {entry.kv_heads}",
            2 * entry.kv_heads,
        ),
        "head_dim": (
            entry.head_dim % 2 and entry.architecture != "gpt2",
            "an even number",
            entry.head_dim + 1,
        ),
        "layers": (
            numbers > _LARGEST,
            f"fewer, or narrower heads: layers x width^2 of at most {_LARGEST:,}",
            2,
        ),
    }
    for key, (wrong, accepted, write) in faults.items():
        if wrong:
            raise ConfigError(
                f"config: model.custom.{key} is {getattr(entry, key)} for random {entry.architecture}. Accepted: {accepted}.\n"
                f"  Write: {key}: {write}"
            )
    return entry


def _filled(entry: ModelEntry, values: Mapping[str, Any]) -> ModelEntry:
    return entry.model_copy(
        update={key: value for key, value in values.items() if getattr(entry, key) is None}
    )


def _stated_shape(path: Path) -> dict[str, Any]:
    """The shape that a file of the hub's form, or a GGUF header, states of a model that is not here."""
    if not path.is_file():
        raise ModelError(
            f"config: model.custom.shape is {path}, and there is no such file, seen from {Path.cwd()}. Accepted: the model's "
            "config.json, or a GGUF file of it.\n  Write: shape: /data/models/mine/config.json"
        )
    return gguf_shape(path) if path.suffix == ".gguf" else shape_of(read_json(path))


def _local_shape(entry: ModelEntry) -> dict[str, int]:
    path = Path(entry.path)
    if path.is_file() and path.suffix == ".gguf":
        return gguf_shape(path)
    if not path.is_dir():
        file = (
            f", but a file: write path: {path.parent}"
            if path.is_file() and path.suffix == ".safetensors"
            else ""
        )
        raise ModelError(
            f"config: model.custom.path is {path}, which is neither a model folder nor a .gguf file{file}.\n"
            "  Write: path: /data/models/mine   (a folder with config.json, *.safetensors and tokenizer.json)"
        )
    model_files(path, f"config: model.custom.path: {path}")
    return shape_of(read_json(path / "config.json"))
