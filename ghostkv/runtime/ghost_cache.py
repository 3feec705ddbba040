"""A cache layer that carries its ghost records with it, through whatever a generation loop does to the cache."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers.cache_utils import DynamicLayer

from ghostkv.files.errors import ModelError
from ghostkv.runtime.deciders import Decider


class GhostLayer(DynamicLayer):
    """transformers' growing cache layer, and the state of the decider that reads it.

    A plain `DynamicLayer` becomes one in place (`ghost_layer`), so `generate()` needs no cache of its own. Cropping
    forgets the records of what was cropped; whatever reorders the batch forgets all of them, and they are written
    anew from the keys.
    """

    ghost: tuple[Decider, Any] | None = None

    def state_of(self, decider: Decider) -> Any:
        """The decider's state of this layer; a fresh one if another decider was here before."""
        if self.ghost is None or self.ghost[0] is not decider:
            self.ghost = (decider, decider.start())
        return self.ghost[1]

    def forget(self, tokens: int = 0) -> None:
        """Drop what is known of tokens from `tokens` on."""
        if self.ghost is not None:
            if tokens:
                self.ghost[1].truncate(tokens)
            else:
                self.ghost = None

    def crop(self, tokens_to_remove: int) -> None:
        super().crop(tokens_to_remove)
        self.forget(self.get_seq_length())

    def reset(self) -> None:
        super().reset()
        self.forget()

    def reorder_cache(self, beam_idx: Tensor) -> None:
        super().reorder_cache(beam_idx)
        self.forget()

    def batch_repeat_interleave(self, repeats: int) -> None:
        super().batch_repeat_interleave(repeats)
        self.forget()

    def batch_select_indices(self, indices: Tensor) -> None:
        super().batch_select_indices(indices)
        self.forget()


def ghost_layer(cache: Any, layer: int) -> GhostLayer | None:
    """The cache's layer as a `GhostLayer`; None where there is no cache.

    Raises
    ------
    ModelError
        The cache is not one that grows by concatenation.
    """
    if cache is None:
        return None
    cache = getattr(cache, "self_attention_cache", cache)
    found = cache.layers[layer]
    if type(found) is DynamicLayer:
        found.__class__ = GhostLayer
    if not isinstance(found, GhostLayer):
        raise ModelError(
            f"layer {layer}: decoding under elimination found a {type(found).__name__} in a "
            f"{type(cache).__name__}. Accepted: DynamicCache, the default of generate().\n"
            "  Write: model.generate(..., cache_implementation=None) or cache=DynamicCache()"
        )
    return found
