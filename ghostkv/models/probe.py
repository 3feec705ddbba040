"""What a model's attention is, found by running a few tokens before anything is measured.

A config says what its author thought of. This looks at what attention is handed: which layers run it, the shapes of
their queries, keys and values, whether the cache holds those keys, and whether the model is causal and says the same
through the lab's door as through its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from ghostkv.files.errors import CaptureError, GhostKVError, ModelError
from ghostkv.models.interface import (
    NAME,
    attention_through,
    ordinary_attention,
    own_implementation,
    refuse_foreign_terms,
)
from ghostkv.models.proof import visible_keys

_FOUND = "_ghostkv_attention"
# Tokens of the prompt, of the block after it, and single steps after that.
_PROMPT, _BLOCK, _STEPS = 12, 6, 3
# Largest difference of a token's logits over their size, for the median token: what the dtype leaves open, and more.
_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.05}
# Cache layers that keep the key of every token, and nothing that chooses among them.
GROWING = (DynamicLayer,)


@dataclass(frozen=True)
class LayerShape:
    """The attention of one layer as it is called."""

    module: nn.Module = field(repr=False, compare=False)
    heads: int
    kv_heads: int
    head_dim: int  # of queries and keys
    value_dim: int
    window: int  # 0 without a sliding window
    # Why the layer can be neither recorded nor decided, where it cannot; such a layer stays dense.
    barred: str = ""

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        return self.heads, self.kv_heads, self.head_dim, self.value_dim


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


def find_cache(arguments: Iterable[Any]) -> Cache | None:
    """The cache among what an attention module is called with, whatever its name is there."""
    found = next((one for one in arguments if isinstance(one, Cache)), None)
    return getattr(found, "self_attention_cache", found)


def _probe(model: PreTrainedModel) -> dict[int, LayerShape]:
    watch, ids, before = _Watch(model), _ids(model), model.config._attn_implementation
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
    for logits, truth, what in (
        (
            own[:, :_PROMPT],
            whole[:, :_PROMPT],
            "what it says of a token depends on later ones: it is not causal",
        ),
        (own, whole, "over its cache it says something else than over the whole text"),
        (
            seen,
            own,
            "its attention is more than a softmax of scaled (and capped) q.k over what attention is handed",
        ),
    ):
        error = _difference(logits, truth)
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


def _logits(model: PreTrainedModel, ids: Tensor, watch: _Watch | None = None) -> Tensor:
    """Logits of a prompt, a block and single steps over one cache."""
    cache, found, start = new_cache(model), [], 0
    for tokens in (_PROMPT, _BLOCK, *[1] * _STEPS):
        found.append(model(ids[:, start : start + tokens], cache=cache, use_cache=True).logits)
        start += tokens
        if watch is not None:
            watch.compare(cache)
    return torch.cat(found, dim=1)


def _difference(logits: Tensor, truth: Tensor) -> float:
    error = (logits - truth).float().norm(dim=-1) / truth.float().norm(dim=-1)
    return float(error.median()) if torch.isfinite(error).all() else float("nan")


class _Watch:
    """Attention as it is, with an eye on what it is handed."""

    def __init__(self, model: PreTrainedModel):
        self.shapes: dict[int, LayerShape] = {}
        self._model, self._name = model, type(model).__name__
        self._windowed = [
            bool(getattr(one, "is_sliding", False)) for one in DynamicCache(config=model.config).layers
        ]
        self._keys: dict[int, Tensor] = {}
        self._calls: Counter[int] = Counter()
        self._handed: set[nn.Module] = set()

    @contextmanager
    def caches(self) -> Iterator[None]:
        """Note which modules are called with a cache."""

        def note(module: nn.Module, args: tuple, kwargs: dict) -> None:
            if find_cache((*args, *kwargs.values())) is not None:
                self._handed.add(module)

        with ExitStack() as stack:
            for shape in self.shapes.values():
                stack.callback(shape.module.register_forward_pre_hook(note, with_kwargs=True).remove)
            yield

    def attend(
        self,
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        **kwargs: Any,
    ) -> tuple[Tensor, None]:
        layer = getattr(module, "layer_idx", None)
        if not isinstance(layer, int) or layer < 0:
            self._refuse(f"{type(module).__name__} does not know which layer it is")
        heads, kv_heads, new, tokens = query.shape[1], key.shape[1], query.shape[2], key.shape[2]
        if key.shape[3] != query.shape[3] or value.shape[1:3] != key.shape[1:3] or heads % kv_heads:
            shapes = ", ".join(str([*one.shape]) for one in (query, key, value))
            self._refuse(f"layer {layer} attends with queries, keys and values of shapes {shapes}")
        window = int(kwargs.get("sliding_window") or 0)
        shape = LayerShape(module, heads, kv_heads, key.shape[3], value.shape[3], window)
        known = self.shapes.setdefault(layer, shape)
        if known.module is not module:
            self._refuse(f"layer {layer} has two attention modules")
        try:
            refuse_foreign_terms(layer, kwargs)
            self._check_mask(attention_mask, new, tokens, window)
        except CaptureError as error:
            self._bar(layer, str(error).removeprefix(f"layer {layer}: ").split(". Accepted")[0])
        self._keys[layer] = key
        self._calls[layer] += 1
        return ordinary_attention(module, query, key, value, attention_mask, **kwargs), None

    def _check_mask(self, mask: Tensor | None, new: int, tokens: int, window: int) -> None:
        if mask is None:
            return
        rows = mask[0, :, :, :tokens]
        shown = rows if rows.dtype == torch.bool else rows == 0
        if not torch.equal(
            shown, visible_keys(torch.arange(tokens - new, tokens), tokens, window).expand_as(shown)
        ):
            raise CaptureError(
                "its mask is neither causal nor a sliding window, or adds a bias to the scores"
            )

    def check_called(self) -> None:
        """After a forward pass without a cache."""
        if not self.shapes:
            self._refuse("no layer sends its attention through transformers' attention interface")
        twice = [layer for layer, calls in self._calls.items() if calls != 1]
        if twice:
            self._refuse(f"layers {twice} attend more than once to read a text once")
        self._calls.clear()

    def compare(self, cache: Cache) -> None:
        """After a forward pass over a cache: every layer's keys are those that the cache holds of it."""
        for layer, shape in self.shapes.items():
            kept = cache.layers[layer] if layer < len(cache.layers) else None
            if type(kept) not in GROWING:
                self._bar(
                    layer,
                    f"its keys are in a {type(kept).__name__}, not in a cache that grows by a key a token",
                )
            elif not _same(kept.keys, self._keys[layer]):
                self._bar(
                    layer,
                    "it attends to other keys than those that the cache holds (a latent, or repeated ones)",
                )
            elif shape.module not in self._handed:
                self._bar(layer, "its attention module is not handed the cache")
            elif self._windowed[layer] and not shape.window:
                self._bar(layer, "it has a window (sliding or in chunks) that its attention is not told of")
        for layer, kept in enumerate(cache.layers):
            if layer not in self.shapes and getattr(kept, "keys", None) is not None and kept.keys.numel():
                self._refuse(
                    f"layer {layer} caches keys that are read outside transformers' attention interface"
                )

    def _bar(self, layer: int, why: str) -> None:
        if not self.shapes[layer].barred:
            self.shapes[layer] = replace(self.shapes[layer], barred=why)

    def _refuse(self, what: str) -> NoReturn:
        raise ModelError(
            f"{self._name}: {what}, so its attention can neither be recorded nor decided. Accepted: models each of whose "
            "attention layers runs once a forward pass through transformers' attention interface (Llama, GPT-2, GPT-NeoX, "
            "Mistral, Qwen, Gemma 2, ...; docs/architectures.md)."
        )


def _same(kept: Tensor | None, keys: Tensor) -> bool:
    return kept is not None and kept.shape == keys.shape and bool(((kept == keys) | keys.isnan()).all())
