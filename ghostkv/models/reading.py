"""A text through a model's layers, at once or in chunks over a cache."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from ghostkv.files.errors import ConfigError

# Rotations whose frequencies follow from the length of what has been read, and from where on.
_BY_LENGTH = {"dynamic": "max_position_embeddings", "longrope": "original_max_position_embeddings"}


@torch.inference_mode()
def read_text(model: PreTrainedModel, ids: Tensor, chunk: int | None = None) -> None:
    """Run the base model, without its language-model head, over a text.

    Parameters
    ----------
    ids : Tensor of int64, shape [1, tokens]
        On the model's device.
    chunk : int, optional
        Tokens that are read at once. Keys and values of earlier ones lie in the model's own cache, which forgets what a sliding
        window has left behind, so that such a layer costs its window.

    Raises
    ------
    ConfigError
        The model rotates the tokens of a long text otherwise than those of its first chunk.
    """
    tokens = ids.shape[1]
    if chunk is None or chunk >= tokens:
        model.base_model(ids, use_cache=False)
        return
    _refuse_rotation_by_length(model, tokens)
    cache = DynamicCache(config=model.config)
    for part in ids.split(chunk, dim=1):
        model.base_model(part, cache=cache, use_cache=True)


def _refuse_rotation_by_length(model: PreTrainedModel, tokens: int) -> None:
    text = model.config.get_text_config(decoder=True)
    found = getattr(text, "rope_parameters", None) or {}
    # One for all layers, or one for each type of them.
    for one in (found, *(inner for inner in found.values() if isinstance(inner, dict))):
        key = _BY_LENGTH.get(one.get("rope_type"))
        if key is None:
            continue
        trained = one.get(key) or getattr(text, key)
        if tokens > trained:
            raise ConfigError(
                f"config: capture.chunk: {type(model).__name__} rotates keys by the length of the text (rope_type: "
                f"{one['rope_type']}) beyond {trained} tokens, so that chunks of {tokens} tokens are not read as the whole is. "
                "Accepted: null for this model, or a shorter text.\n  Write: chunk: null"
            )
