"""Record what attention reads while the model runs, one layer at a time, and prove each layer on the spot."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ghostkv.captures.capture_files import LayerCapture
from ghostkv.files.errors import CaptureError, ConfigError, GhostKVError
from ghostkv.models.devices import described
from ghostkv.models.interface import (
    attention_through,
    keeps_scores,
    ordinary_attention,
    refuse_foreign_terms,
)
from ghostkv.models.probe import attention_layers
from ghostkv.models.proof import Rounding, prove, visible_keys
from ghostkv.models.reading import read_text

CACHE_DTYPES = ("float16", "model")
logger = logging.getLogger(__name__)


def record_attention(
    model: PreTrainedModel,
    token_ids: Sequence[int],
    positions: np.ndarray,
    receive: Callable[[LayerCapture, dict[str, float]], None],
    layers: Sequence[int] | None = None,
    cache_dtype: str = "float16",
    chunk: int | None = None,
) -> None:
    """Run `model` once over `token_ids` and hand every layer's attention to `receive` as soon as it has run.

    Only the base model runs, without its language-model head, on whatever device it is. What is handed over lies in host
    memory, a layer at a time. In chunks, the model's device also holds the cache, all keys and values of sliding layers that are
    recorded, and the host all layers' sampled queries.

    Parameters
    ----------
    positions : ndarray of int, shape [queries]
        Token indices at which queries and outputs are kept, ascending; the same for every layer and head.
    receive : callable
        Called with a `LayerCapture` and its proof, in layer order.
    cache_dtype : {"float16", "model"}
        "float16": attention reads K and V rounded to float16, as it does in a server with a float16 KV cache,
        so the file holds exactly what attention read. "model": attention reads them in the model's own dtype
        and only the file is rounded.
    chunk : int, optional
        Tokens that are read at once, over a cache; by default the whole text, without one.

    Raises
    ------
    ConfigError
        A layer that the model lacks, an unknown cache dtype, or chunks for a model that reads them otherwise than the text.
    CaptureError
        The model does not dispatch through the attention interface, adds terms to attention that q, k and v
        do not carry, or produces values that float16 cannot hold.
    """
    if cache_dtype not in CACHE_DTYPES:
        raise ConfigError(
            f"config: capture.cache_dtype is {cache_dtype!r}. Accepted: {', '.join(CACHE_DTYPES)}.\n"
            "  Write: cache_dtype: float16"
        )
    wanted = _recordable(model, layers)
    ids = torch.as_tensor(np.asarray(token_ids, dtype=np.int64), device=model.device)[None]
    recorder = _Recorder(
        torch.tensor(np.asarray(positions, np.int64)), ids.shape[1], frozenset(wanted), cache_dtype, receive
    )
    with attention_through(model, recorder.attend):
        try:
            read_text(model, ids, chunk)
        except (GhostKVError, MemoryError):
            raise
        except torch.OutOfMemoryError as error:
            raise CaptureError(
                f"{type(model).__name__}: {ids.shape[1]} tokens, {chunk or ids.shape[1]} at once, do not fit the memory of "
                f"{described(model.device)}.\n  Write: chunk: {max((chunk or ids.shape[1]) // 4, 1)}   (or another number, "
                "under capture)"
            ) from error
        except Exception as error:  # what a model raises by itself is of no kind
            raise CaptureError(
                f"{type(model).__name__}: its own forward pass fails on {ids.shape[1]} tokens ({type(error).__name__}: "
                f"{' '.join(str(error).split())[:200]}). Accepted: texts as long as the model takes.\n"
                f"  Write: tokens: {ids.shape[1] // 2}   (or another number, under capture)"
            ) from error


def _recordable(model: PreTrainedModel, layers: Sequence[int] | None) -> list[int]:
    """The layers to record, ascending, once all of them are known to attend as a capture can hold it."""
    found = attention_layers(model)
    free = [layer for layer, shape in found.items() if not shape.barred]
    count = max(*found, model.config.get_text_config(decoder=True).num_hidden_layers - 1) + 1
    wanted = sorted(found if layers is None else layers)
    if wanted and wanted[-1] >= count:
        raise ConfigError(
            f"config: capture.layers names layer {wanted[-1]}, but the model has {count} layers, 0 to "
            f"{count - 1}.\n"
            f"  Write: layers: [{', '.join(str(layer) for layer in wanted if layer < count) or 0}]"
        )
    for layer in wanted:
        if layer not in free:
            why = found[layer].barred if layer in found else "it runs no attention (it may be recurrent)"
            raise CaptureError(
                f"{type(model).__name__}, layer {layer}: {why}. Accepted: layers whose attention is a causal softmax of scaled "
                "(and capped) q.k over keys that the cache holds"
                + (f".\n  Write: layers: {free}" if free else "; this model has none.")
            )
    return wanted


@dataclass
class _LayerSoFar:
    """What has been read of a layer, a chunk at a time."""

    tokens: int = 0
    # Sampled queries and outputs, in host memory.
    sampled: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    # Of a layer whose window slides, keys and values: its cache forgets those that are out of sight.
    sliding: list[tuple[Tensor, Tensor]] = field(default_factory=list)


@dataclass
class _Recorder:
    positions: Tensor
    tokens: int
    wanted: frozenset[int]
    cache_dtype: str
    receive: Callable[[LayerCapture, dict[str, float]], None]
    _so_far: dict[int, _LayerSoFar] = field(default_factory=dict)

    def attend(
        self,
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        **kwargs: Any,
    ) -> tuple[Tensor, None]:
        layer = module.layer_idx
        if layer not in self.wanted:
            return ordinary_attention(module, query, key, value, attention_mask, **kwargs), None
        refuse_foreign_terms(layer, kwargs)
        seen_key, seen_value = key, value
        if self.cache_dtype == "float16":
            seen_key = _to_float16(key, "key", layer).to(key.dtype)
            seen_value = _to_float16(value, "value", layer).to(value.dtype)
        output = ordinary_attention(module, query, seen_key, seen_value, attention_mask, **kwargs)
        so_far, new = self._so_far.setdefault(layer, _LayerSoFar()), query.shape[2]
        so_far.tokens += new
        window = int(kwargs.get("sliding_window") or 0)
        self._sample(so_far, query, output, attention_mask, key.shape[2], window, layer)
        if window:
            so_far.sliding.append((key[:, :, -new:].clone(), value[:, :, -new:].clone()))
        if so_far.tokens == self.tokens:
            if window:
                key, value = (torch.cat(parts, dim=2) for parts in zip(*so_far.sliding, strict=True))
            capture = self._capture(layer, query.shape[-1], key, value, kwargs)
            rounding = Rounding.of(query.dtype, keeps_scores(module, kwargs.get("softcap")))
            read_stored = self.cache_dtype == "float16"
            self.receive(capture, prove(capture, key[0], value[0], read_stored, rounding))
        return output, None

    def _sample(
        self,
        so_far: _LayerSoFar,
        query: Tensor,
        output: Tensor,
        mask: Tensor | None,
        keys: int,
        window: int,
        layer: int,
    ) -> None:
        """Keep what is wanted of a chunk, whose attention is handed the last `keys` keys of the text so far."""
        past = so_far.tokens - query.shape[2]
        own = self.positions[(self.positions >= past) & (self.positions < so_far.tokens)].to(query.device)
        queries = query[0][:, own - past].float()
        outputs = output[0][own - past].transpose(0, 1).float()
        for name, tensor in (("query", queries), ("attention output", outputs)):
            _refuse_non_finite(tensor, name, layer)
        if mask is not None:
            _check_mask(mask[0, :, own - past, :keys], own, so_far.tokens, window, layer)
        so_far.sampled.append((queries.cpu(), outputs.cpu()))

    def _capture(self, layer: int, width: int, key: Tensor, value: Tensor, kwargs: dict) -> LayerCapture:
        sampled = self._so_far.pop(layer).sampled
        queries, outputs = (torch.cat(parts, dim=1) for parts in zip(*sampled, strict=True))
        scale = kwargs.get("scaling")
        return LayerCapture(
            layer=layer,
            keys=_to_float16(key, "key", layer)[0].contiguous().cpu().numpy(),
            values=_to_float16(value, "value", layer)[0].contiguous().cpu().numpy(),
            queries=queries.contiguous().numpy(),
            outputs=outputs.contiguous().numpy(),
            positions=self.positions.numpy().astype(np.int32),
            scale=float(width**-0.5 if scale is None else scale),
            window=int(kwargs.get("sliding_window") or 0),
            softcap=float(kwargs.get("softcap") or 0.0),
        )


def _to_float16(tensor: Tensor, name: str, layer: int) -> Tensor:
    _refuse_non_finite(tensor[0], name, layer)
    half = tensor.to(torch.float16)
    beyond = torch.isinf(half[0]).flatten(1).any(1)
    if beyond.any():
        head = int(beyond.nonzero()[0])
        raise CaptureError(
            f"layer {layer}, KV head {head}: a {name} component reaches "
            f"{float(tensor[0, head].abs().max()):.6g}, beyond float16 (65504), in which captures are "
            "stored. Accepted: models whose keys and values fit float16.\n"
            f"  Write: layers: [...] without {layer}"
        )
    return half


def _refuse_non_finite(tensor: Tensor, name: str, layer: int) -> None:
    broken = ~torch.isfinite(tensor).flatten(1).all(1)
    if broken.any():
        raise CaptureError(
            f"layer {layer}, head {int(broken.nonzero()[0])}: the {name} holds NaN or infinity, so the "
            "forward pass itself failed. Accepted: finite activations.\n  Write: model: {dtype: float32}, "
            "or check the weights"
        )


def _check_mask(rows: Tensor, positions: Tensor, tokens: int, window: int, layer: int) -> None:
    """Refuse a mask other than causal, or causal within the layer's window: position and window must tell it all.

    `rows` are those of the positions, over the last keys of a text of `tokens`; those before are out of sight.
    """
    shown = rows if rows.dtype == torch.bool else rows == 0
    shown = nn.functional.pad(shown, (tokens - shown.shape[-1], 0))
    if not torch.equal(shown, visible_keys(positions, tokens, window)[None].expand_as(shown)):
        raise CaptureError(
            f"layer {layer}: its mask is neither causal nor a sliding window of "
            f"{window or 'any number of'} tokens (chunked or prefix attention?). Accepted: global "
            "and sliding-window causal layers.\n"
            f"  Write: layers: [...] without {layer}"
        )
