"""Attention as it runs, with an eye on what it is handed and on what the cache holds of it."""

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

from ghostkv.files.errors import CaptureError, ModelError
from ghostkv.models.interface import ordinary_attention, refuse_foreign_terms
from ghostkv.models.proof import visible_keys

# Cache layers that keep the key of every token, and nothing that chooses among them.
_GROWING = (DynamicLayer,)


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


def find_cache(arguments: Iterable[Any]) -> Cache | None:
    """The cache among what an attention module is called with, whatever its name is there."""
    found = next((one for one in arguments if isinstance(one, Cache)), None)
    return getattr(found, "self_attention_cache", found)


class Watch:
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
            shown,
            visible_keys(torch.arange(tokens - new, tokens, device=shown.device), tokens, window).expand_as(
                shown
            ),
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
            if type(kept) not in _GROWING:
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
