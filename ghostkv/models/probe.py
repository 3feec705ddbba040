"""What a model's attention is, found by running a few tokens before anything is measured.

A config says what its author thought of. This looks at what attention is handed: which layers run it, the shapes of
their queries, keys and values, whether the cache holds those keys, and whether the model is causal and says the same
through the lab's door as through its own.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicCache, DynamicLayer

from ghostkv.files.errors import GhostKVError, ModelError
from ghostkv.models.interface import NAME, attention_through, own_implementation
from ghostkv.models.watch import LayerShape, Watch

_FOUND = "_ghostkv_attention"
# Tokens of the prompt, of the block after it, and single steps after that.
_PROMPT, _BLOCK, _STEPS = 12, 6, 3
_PARTS = (slice(_PROMPT), slice(_PROMPT, _PROMPT + _BLOCK), slice(_PROMPT + _BLOCK, None))
# Largest difference of a token's logits over their size: what the dtype leaves open, and more.
_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.05}


def attention_layers(model: PreTrainedModel) -> dict[int, LayerShape]:
    """The layers that attend, by index; found once per model.

    Raises
    ------
    ModelError, CaptureError
        The model's attention is not what the lab can measure. The message says what was found.
    """
    found = model.__dict__.get(_FOUND)
    if found is None:
        # Not setattr: a module would look for parameters in it.
        found = model.__dict__[_FOUND] = _probe(model)
    return found


def measurable_layers(model: PreTrainedModel) -> dict[int, LayerShape]:
    """The layers whose attention can be recorded and decided.

    Raises
    ------
    ModelError, CaptureError
        There is none.
    """
    found = attention_layers(model)
    free = {layer: shape for layer, shape in found.items() if not shape.barred}
    if not free:
        layer, shape = next(iter(found.items()))
        raise ModelError(
            f"{type(model).__name__}: no layer's attention can be recorded or decided. Layer {layer}: {shape.barred}. "
            "Accepted: causal softmax of scaled (and capped) q.k over keys that the cache holds (docs/architectures.md)."
        )
    return free


def new_cache(model: PreTrainedModel) -> DynamicCache:
    """An empty cache of the kind that the model wants, except that sliding windows forget nothing: it can be cropped,
    and masks hide what is out of sight."""
    cache = DynamicCache(config=model.config)
    cache.layers = [
        DynamicLayer() if type(one).__name__ == "DynamicSlidingWindowLayer" else one for one in cache.layers
    ]
    return cache


def _probe(model: PreTrainedModel) -> dict[int, LayerShape]:
    watch, ids, before = Watch(model), _ids(model), model.config._attn_implementation
    try:
        with torch.inference_mode():
            with attention_through(model, watch.attend):
                model(ids, use_cache=False)
            watch.check_called()
            model.set_attn_implementation(own_implementation(model, NAME, "ghostkv"))
            whole = model(ids, use_cache=False).logits
            own = _logits(model, ids)
            with attention_through(model, watch.attend), watch.caches():
                seen = _logits(model, ids, watch)
    except GhostKVError:
        raise
    except Exception as error:  # what a model raises by itself is of no kind
        raise ModelError(
            f"{type(model).__name__}: its own forward pass fails on {ids.shape[1]} tokens read in pieces "
            f"({type(error).__name__}: {' '.join(str(error).split())[:200]}). Accepted: a causal language model that goes on "
            "from its cache, many tokens at once and one by one."
        ) from error
    finally:
        model.set_attn_implementation(before)
    found = _of_one_shape({layer: watch.shapes[layer] for layer in sorted(watch.shapes)})
    if not torch.isfinite(whole).all():
        # Whoever runs the model on a text says where it breaks.
        return found
    more = "its attention is more than a softmax of scaled (and capped) q.k over what attention is handed"
    for logits, truth, parts, what in (
        (own, whole, _PARTS[:1], "what it says of a token depends on later ones: it is not causal"),
        (own, whole, _PARTS[1:], "over its cache it says something else than over the whole text"),
        (seen, own, _PARTS, more),
    ):
        error = max(_difference(logits[:, part], truth[:, part]) for part in parts)
        if not error <= _TOLERANCE.get(model.dtype, 0.1):
            raise ModelError(
                f"{type(model).__name__}: {what} (logits differ by {error:.2g} of their size). Accepted: a causal language "
                "model whose attention is softmax of scaled (and capped) q.k, and whose cache holds all that it remembers."
            )
    return found


def _of_one_shape(layers: dict[int, LayerShape]) -> dict[int, LayerShape]:
    """Bar layers of other shapes than most have: a capture and a policy are of one. Windowed layers, which stay dense, count
    last."""
    free = [one for one in layers.values() if not one.barred]
    counts = Counter(one.sizes for one in free if not one.window) or Counter(one.sizes for one in free)
    if not counts:
        return layers
    most, _ = counts.most_common(1)[0]
    why = "its heads, KV heads and widths of keys and values are {}, and those of the layers that are measured {}"
    return {
        layer: one if one.barred or one.sizes == most else replace(one, barred=why.format(one.sizes, most))
        for layer, one in layers.items()
    }


def _ids(model: PreTrainedModel) -> Tensor:
    """Tokens that are nothing but text."""
    text = model.config.get_text_config()
    special = set()
    for config in (model.config, text):
        for name, value in config.to_dict().items():
            if name.endswith(("_token_id", "_token_index")):
                special |= set(value if isinstance(value, list) else [value])
    plain = [token for token in range(min(text.vocab_size, 1000)) if token not in special]
    tokens = _PROMPT + _BLOCK + _STEPS
    chosen = [plain[(7 * place + 3) % len(plain)] for place in range(tokens)]
    return torch.tensor([chosen], device=model.device)


def _logits(model: PreTrainedModel, ids: Tensor, watch: Watch | None = None) -> Tensor:
    """Logits of a prompt, a block and single steps over one cache."""
    cache, found, start = new_cache(model), [], 0
    for tokens in (_PROMPT, _BLOCK, *[1] * _STEPS):
        found.append(model(ids[:, start : start + tokens], cache=cache, use_cache=True).logits)
        start += tokens
        if watch is not None:
            watch.compare(cache)
        elif start == _PROMPT:
            # Another text in between: what is remembered of this one elsewhere than in its cache is then lost.
            model(ids[:, :2], cache=new_cache(model), use_cache=True)
    return torch.cat(found, dim=1)


def _difference(logits: Tensor, truth: Tensor) -> float:
    error = (logits - truth).float().norm(dim=-1) / truth.float().norm(dim=-1)
    # Of 16-bit types a token may lie far off, as where a router chose another expert.
    worst = error.max() if logits.dtype == torch.float32 else error.median()
    return float(worst) if torch.isfinite(error).all() else float("inf")
