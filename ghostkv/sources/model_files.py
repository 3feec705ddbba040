"""Which files of a folder make a model: what a fetch copies, and so what the workflow watches. Nothing is loaded.

A folder that would be read otherwise than it says is refused here, before anything runs.
"""

from __future__ import annotations

import json
import math
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ghostkv.files.errors import ModelError

# What a folder may carry beside the weights: plain data that describes the model and its tokenizer.
BESIDE = ("*.json", "*.jinja", "*.model", "*.tiktoken", "merges.txt", "vocab.txt")
INDEX = "model.safetensors.index.json"
_PICKLED = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt")
# Quantised weights by method: the package that can write them out as plain ones.
_PACKAGES = {
    "gptq": "gptqmodel",
    "awq": "gptqmodel",
    "bitsandbytes": "bitsandbytes",
    "compressed-tensors": "compressed-tensors",
    "quanto": "optimum-quanto",
    "mxfp4": "kernels",
    "fp8": "kernels",
}


def model_files(folder: str | Path, what: str | None = None) -> list[Path]:
    """The files of a model folder, weights last.

    Parameters
    ----------
    what : str, optional
        What messages call the folder.

    Raises
    ------
    ModelError
        A file is missing or no regular file; the weights are pickled, quantised, an adapter, or not those of the index.
    """
    folder = Path(folder)
    what = what or str(folder)
    try:
        present = sorted(file for file in folder.iterdir() if not file.name.startswith("."))
    except OSError as error:
        raise ModelError(
            f"{what} cannot be listed ({error.strerror}).\n  Write: path: /data/models/mine   (a folder)"
        ) from error
    beside = [file for file in present if any(file.match(pattern) for pattern in BESIDE)]
    for file in [folder / "config.json", *beside]:
        _refuse_unreadable(file, what)
    refuse_config(read_json(folder / "config.json"), what)
    _refuse_adapter(folder, what)
    weights = [folder / name for name in weight_names(folder)]
    for file in weights:
        if file not in present:
            raise ModelError(f"{what} has no {file.name}{_instead(present, file.name)}")
        _refuse_unreadable(file, what)
    return [file for file in beside if file not in weights] + weights


def weight_names(folder: str | Path) -> list[str]:
    """The files of weights: those that the index names, or `model.safetensors` where there is no index.

    Raises
    ------
    ModelError
        The index is damaged, names a tensor twice, or a file that is not safetensors of the same folder.
    """
    return sorted(set(weight_map(folder).values())) or ["model.safetensors"]


def weight_map(folder: str | Path) -> dict[str, str]:
    """Tensor -> file, as the index says; empty where there is none. Raises as `weight_names`."""
    path = Path(folder) / INDEX
    if not path.is_file():
        return {}
    found = read_json(path).get("weight_map")
    if not isinstance(found, dict) or not found:
        raise ModelError(
            f"{path} has no weight_map. Accepted: a mapping of tensors to files.\n  Save the model again with "
            "transformers: from_pretrained, then save_pretrained(folder)."
        )
    for name in found.values():
        if not isinstance(name, str) or not re.fullmatch(r"[\w.-]+\.safetensors", name):
            raise ModelError(
                f"{path} names {name!r} as weights. Accepted: safetensors files of the same folder.\n"
                "  Save the model again with transformers: from_pretrained, then save_pretrained(folder)."
            )
    return found


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object of a model folder.

    Raises
    ------
    ModelError
        The file is missing, is no JSON, no object, has a key twice, or a number that is not finite.
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [name for name, _ in pairs]
        if twice := sorted(
            {name for name in names if names.count(name) > 1} if len(set(names)) < len(names) else ()
        ):
            raise ValueError(f"{', '.join(twice)} stands in it twice")
        return dict(pairs)

    try:
        found = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=once)
        if not isinstance(found, dict):
            raise ValueError(f"it holds a {type(found).__name__}")
        if endless := _endless(found):
            raise ValueError(f"{endless} is not finite")
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(
            f"{path}: not a readable JSON object ({error}).\n  Copy the file again from where the model comes from."
        ) from error
    return found


def _endless(value: Any, key: str = "") -> str | None:
    """The first key whose number is not finite, also as transformers tags such; a limit may be infinite, which is none."""
    if isinstance(value, dict) and list(value) == ["__float__"]:
        value = float(value["__float__"])
    if isinstance(value, float):
        limitless = value == math.inf and key.endswith("_limit")
        return None if math.isfinite(value) or limitless else key
    inner = (
        value.items()
        if isinstance(value, dict)
        else [(key, one) for one in value]
        if isinstance(value, list)
        else ()
    )
    return next(filter(None, (_endless(one, name) for name, one in inner)), None)


def refuse_config(config: Mapping[str, Any], what: str) -> None:
    """Refuse a `config.json` that asks for weights or kernels which the lab does not read, by a `ModelError`."""
    inner = config.get("text_config")
    for found in (config, inner if isinstance(inner, dict) else {}):
        if quantised := found.get("quantization_config"):
            method = str(
                quantised.get("quant_method", "unknown") if isinstance(quantised, dict) else quantised
            )
            package = _PACKAGES.get(method, f"that reads {method}")
            raise ModelError(
                f"{what} has quantised weights (quantization_config in config.json: {method}). Accepted: plain ones, in "
                "float32, bfloat16 or float16, and GGUF files.\n"
                "  Name the repository of the plain weights: custom: {source: hub, id: ...}\n"
                f"  Or write them out once where the package {package} is installed: from_pretrained(...).dequantize(), "
                "then save_pretrained(folder)."
            )
        for key in found:
            # transformers fetches a kernel by such a name from the hub, and runs it.
            if key.endswith("attn_implementation") and found[key] not in (None, "eager", "sdpa"):
                raise ModelError(
                    f"{what}: {key} in config.json is {found[key]!r}. Accepted: eager, sdpa, or no such key, because the lab "
                    f"computes attention itself.\n  Remove {key} from config.json."
                )
        if "transformers_weights" in found:
            raise ModelError(
                f"{what}: transformers_weights in config.json names {found['transformers_weights']!r}. Accepted: "
                "model.safetensors, or the files of its index.\n  Remove transformers_weights from config.json."
            )


def _refuse_adapter(folder: Path, what: str) -> None:
    if (folder / "adapter_config.json").is_file():
        raise ModelError(
            f"{what} holds an adapter (adapter_config.json). Accepted: whole models.\n  Merge it once with the package "
            "peft (merge_and_unload, then save_pretrained(folder)) and write: custom: {source: path, path: folder}"
        )


def _refuse_unreadable(file: Path, what: str) -> None:
    """Refuse what is no regular file, before a copy would hang on a pipe or stumble over a folder."""
    try:
        mode = file.stat().st_mode
        if stat.S_ISREG(mode):
            with file.open("rb"):
                return
        found = "is a folder" if stat.S_ISDIR(mode) else "is no regular file"
    except OSError as error:
        link = f", a link to {file.readlink()}" if file.is_symlink() else ""
        found = f"cannot be read ({error.strerror}{link})"
    raise ModelError(
        f"{what}: {file.name} {found}. Accepted: a file that can be read.\n  Put the model's own {file.name} there, or "
        "remove what has its name."
    )


def _instead(present: list[Path], lacking: str) -> str:
    """What a folder has in the place of the weights, and what to do about it."""
    names = [file.name for file in present]
    pickled = [file.name for file in present if any(file.match(pattern) for pattern in _PICKLED)]
    tensors = [name for name in names if name.endswith(".safetensors")]
    save = "  Convert them once with transformers (from_pretrained, then save_pretrained(folder)) and "
    write = "write: custom: {source: path, path: folder}"
    if INDEX in names:
        return f", which {INDEX} names.\n  Copy it from where the model comes from."
    if len(tensors) > 1:
        return (
            f" and no {INDEX}, which says what is in {', '.join(tensors[:3])}.\n  Copy the index beside them."
        )
    if tensors:
        return f".\n  If {tensors[0]} holds the whole model: rename it to {lacking}."
    if pickled:
        return f" (only {pickled[0]}). Only safetensors weights are read, because a pickle can run code.\n{save}{write}"
    return f". Only safetensors weights are read.\n{save}{write}"
