"""A GGUF file as plain safetensors: dequantised once, so that every later load takes half a second."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from math import isclose, prod
from pathlib import Path
from typing import Any
from unittest import mock

from ghostkv.files.errors import ModelError
from ghostkv.models.weights import check_numbers, checked
from ghostkv.sources.gguf_header import GgufHeader, read_gguf_header, refuse_split


def dequantise(gguf: str | Path, folder: str | Path) -> None:
    """Write a GGUF file's model (float32) and tokenizer into `folder`, in the Hugging Face layout.

    Parameters
    ----------
    folder : str or Path
        Takes config.json, model.safetensors, tokenizer.json.

    Raises
    ------
    ModelError
        transformers cannot read the file, does not know its architecture, or drops part of what it holds; the file is
        one part of a split one.
    """
    import torch
    import transformers
    from transformers import AutoModelForCausalLM, AutoTokenizer

    gguf = Path(gguf)
    refuse_split(gguf)
    header = read_gguf_header(gguf)
    refuse_split(gguf, header.pairs)
    _refuse_overlaps(header, gguf)
    # Newer versions keep the blocks of some architectures packed unless told otherwise; older ones never do.
    told = hasattr(transformers, "GgufConfig")
    options = {"quantization_config": transformers.GgufConfig(dequantize=True)} if told else {}
    try:
        with _parsed_once():
            model = checked(
                lambda **more: AutoModelForCausalLM.from_pretrained(gguf.parent, **more),
                str(gguf),
                gguf_file=gguf.name,
                dtype=torch.float32,
                trust_remote_code=False,
                **options,
            )
            tokenizer = AutoTokenizer.from_pretrained(
                gguf.parent, gguf_file=gguf.name, trust_remote_code=False
            )
    except ModelError:
        raise
    except Exception as error:  # a damaged file raises whatever the parser stumbles over
        raise ModelError(
            f"{gguf}: transformers cannot read this GGUF file ({type(error).__name__}: {error}).\n"
            "  Fetch it again, or use the model's safetensors: model: "
            "{name: mine, custom: {source: hub, id: ...}}"
        ) from error
    check_numbers(header.shapes, model, str(gguf))
    _refuse_dropped(header.pairs, model.config, gguf)
    # The weights are plain now; a config that says otherwise would be dequantised again, or refused.
    for stale in ("quantization_config", "_model_name_or_path"):
        if hasattr(model.config, stale):
            delattr(model.config, stale)
    model.hf_quantizer = None
    tokenizer.model_max_length = getattr(model.config, "max_position_embeddings", tokenizer.model_max_length)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _refuse_overlaps(header: GgufHeader, path: Path) -> None:
    """Refuse a file whose tensors do not lie one after the other, as llama.cpp does: two would be read from one place."""
    from gguf import GGML_QUANT_SIZES

    sizes = {int(kind): size for kind, size in GGML_QUANT_SIZES.items()}
    end = 0
    for name, (kind, place) in sorted(header.places.items(), key=lambda item: item[1][1]):
        per_block, size = sizes.get(kind, (1, 0))
        if place != end or not size:
            fault = (
                f"{name} begins at byte {place}, not {end}" if size else f"{name} is of unknown type {kind}"
            )
            raise ModelError(f"{path}: damaged: {fault}.\n  Fetch it again.")
        end += -(-prod(header.shapes[name]) // per_block * size // header.alignment) * header.alignment
    if header.length < end - header.alignment + 1:
        raise ModelError(f"{path}: cut short: it holds {header.length} bytes of {end}.\n  Fetch it again.")


# What a header may state that transformers does not carry over for every architecture, by the config's name for it.
_STATED = {
    "head_dim": "attention.key_length",
    "num_key_value_heads": "attention.head_count_kv",
    "sliding_window": "attention.sliding_window",
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
    "logit_scale": "logit_scale",
}


def _refuse_dropped(pairs: Mapping[str, Any], config: Any, path: Path) -> None:
    """Refuse a file whose header states arithmetic that the config has not got: the model would compute something else."""
    family, wrong = pairs["general.architecture"], []
    heads = getattr(config, "num_attention_heads", 1)
    usual = {"head_dim": getattr(config, "hidden_size", 0) // heads, "num_key_value_heads": heads}
    for name, key in _STATED.items():
        stated, found = pairs.get(f"{family}.{key}"), getattr(config, name, None) or usual.get(name, 0)
        if isinstance(stated, int | float) and not isclose(stated, found, rel_tol=1e-6):
            wrong.append(f"{family}.{key} is {stated}, read as {found or 'none'}")
    scaling = pairs.get(f"{family}.rope.scaling.type", "none")
    kept = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    if scaling != "none" and kept == "default":
        wrong.append(f"{family}.rope.scaling.type is {scaling}, read as none")
    if wrong:
        raise ModelError(
            f"{path}: transformers does not carry over what its header states: {'; '.join(wrong)}.\n"
            "  Use the model's safetensors: model: {name: mine, custom: {source: hub, id: ...}}"
        )


@contextmanager
def _parsed_once() -> Iterator[None]:
    """Let transformers parse the file once instead of three times, which saves half of the time.

    It opens the file anew for config, weights and tokenizer, and rebuilds the table of tensor names for every
    submodule.
    """
    import gguf

    reader, names = lru_cache(maxsize=1)(gguf.GGUFReader), lru_cache(maxsize=8)(gguf.get_tensor_name_map)
    with mock.patch.object(gguf, "GGUFReader", reader), mock.patch.object(gguf, "get_tensor_name_map", names):
        yield
