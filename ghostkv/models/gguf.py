"""A GGUF file as plain safetensors: dequantised once, so that every later load takes half a second."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from unittest import mock

from ghostkv.files.errors import ModelError


def dequantise(gguf: str | Path, folder: str | Path) -> None:
    """Write a GGUF file's model (float32) and tokenizer into `folder`, in the Hugging Face layout.

    Parameters
    ----------
    folder : str or Path
        Takes config.json, model.safetensors, tokenizer.json.

    Raises
    ------
    ModelError
        transformers cannot read the file or does not know its architecture.
    """
    import torch
    import transformers
    from transformers import AutoModelForCausalLM, AutoTokenizer

    gguf = Path(gguf)
    # Newer versions keep the blocks of some architectures packed unless told otherwise; older ones never do.
    told = hasattr(transformers, "GgufConfig")
    options = {"quantization_config": transformers.GgufConfig(dequantize=True)} if told else {}
    try:
        with _parsed_once():
            model = AutoModelForCausalLM.from_pretrained(
                gguf.parent, gguf_file=gguf.name, dtype=torch.float32, trust_remote_code=False, **options
            )
            tokenizer = AutoTokenizer.from_pretrained(
                gguf.parent, gguf_file=gguf.name, trust_remote_code=False
            )
    except Exception as error:  # a damaged file raises whatever the parser stumbles over
        raise ModelError(
            f"{gguf}: transformers cannot read this GGUF file ({type(error).__name__}: {error}).\n"
            "  Fetch it again, or use the model's safetensors: model: "
            "{name: mine, custom: {source: hub, id: ...}}"
        ) from error
    # The weights are plain now; a config that says otherwise would be dequantised again, or refused.
    for stale in ("quantization_config", "_model_name_or_path"):
        if hasattr(model.config, stale):
            delattr(model.config, stale)
    model.hf_quantizer = None
    tokenizer.model_max_length = getattr(model.config, "max_position_embeddings", tokenizer.model_max_length)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


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
