"""Queries and keys as the predecessor had them, beside the ones that attention reads.

The predecessor projected the hidden states that enter a layer, without the layer norm in between and without
positions. Here each attention module is called once more on exactly that: the layer's raw input, and a
rotation by nothing (cos = 1, sin = 0) where the model has rotary positions. So it holds for every family that
dispatches through the attention interface.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ghostkv.captures.capture_files import LayerCapture
from ghostkv.models.interface import attention_through, ordinary_attention


def rebuilt_and_true(
    model: PreTrainedModel, token_ids: Sequence[int], positions: np.ndarray, layers: Sequence[int]
) -> dict[int, tuple[LayerCapture, LayerCapture]]:
    """Run one text; return every layer's queries and keys, rebuilt from hidden states and as attention reads them.

    Parameters
    ----------
    positions : ndarray of int, shape [queries]

    Returns
    -------
    dict
        By layer, (rebuilt, true): captures without values, keys in float32.
    """
    pair = _Pair(torch.tensor(np.asarray(positions, np.int64), device=model.device), frozenset(layers))
    with ExitStack() as stack, torch.inference_mode():
        stack.enter_context(attention_through(model, pair.attend))
        for parent in model.base_model.modules():
            for module in parent.children():
                if (
                    isinstance(getattr(module, "layer_idx", None), int)
                    and "Attention" in type(module).__name__
                ):
                    for handle in pair.watch(parent, module):
                        stack.callback(handle.remove)
        ids = torch.as_tensor(np.asarray(token_ids, np.int64), device=model.device)[None]
        model.base_model(ids, use_cache=False)
    return {layer: (pair.rebuilt[layer], pair.true[layer]) for layer in sorted(pair.true)}


class _Pair:
    """Remembers each layer's raw input and runs its attention module on it before the model does."""

    def __init__(self, positions: Tensor, layers: frozenset[int]):
        self.positions, self.layers = positions, layers
        self.rebuilt: dict[int, LayerCapture] = {}
        self.true: dict[int, LayerCapture] = {}
        self._raw: Tensor | None = None
        self._rebuilding = False

    def watch(self, parent: nn.Module, module: nn.Module) -> list[Any]:
        return [
            parent.register_forward_pre_hook(self._remember, with_kwargs=True),
            module.register_forward_pre_hook(self._rebuild, with_kwargs=True),
        ]

    def _remember(self, parent: nn.Module, args: tuple, kwargs: dict) -> None:
        self._raw = args[0] if args else kwargs["hidden_states"]

    def _rebuild(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        if module.layer_idx not in self.layers:
            return
        kwargs = dict(kwargs)
        if kwargs.get("position_embeddings") is not None:
            cos, sin = kwargs["position_embeddings"]
            kwargs["position_embeddings"] = (torch.ones_like(cos), torch.zeros_like(sin))
        if args:
            args = (self._raw, *args[1:])
        else:
            kwargs["hidden_states"] = self._raw
        self._rebuilding = True
        try:
            # forward, not the module itself: the hooks are not to run again.
            module.forward(*args, **kwargs)
        finally:
            self._rebuilding = False

    def attend(
        self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **kwargs: Any
    ) -> tuple[Tensor, None]:
        if module.layer_idx in self.layers:
            kept = self.rebuilt if self._rebuilding else self.true
            kept[module.layer_idx] = self._capture(module.layer_idx, query, key, kwargs)
        if self._rebuilding:
            return value.new_zeros(1, query.shape[2], query.shape[1], value.shape[-1]), None
        return ordinary_attention(module, query, key, value, mask, **kwargs), None

    def _capture(self, layer: int, query: Tensor, key: Tensor, kwargs: dict) -> LayerCapture:
        scale = kwargs.get("scaling")
        return LayerCapture(
            layer=layer,
            keys=key[0].float().contiguous().cpu().numpy(),
            values=None,
            queries=query[0][:, self.positions].float().contiguous().cpu().numpy(),
            outputs=None,
            positions=self.positions.cpu().numpy().astype(np.int32),
            scale=float(query.shape[-1] ** -0.5 if scale is None else scale),
            window=int(kwargs.get("sliding_window") or 0),
            softcap=float(kwargs.get("softcap") or 0.0),
        )
