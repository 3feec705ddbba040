"""One text's dense context, read once, and what many policies make of its continuation."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from transformers import DynamicCache, PreTrainedModel

from ghostkv.captures.capture_files import LayerCapture, read_layer
from ghostkv.files.buffers import give_back
from ghostkv.models.interface import own_implementation
from ghostkv.models.probe import new_cache
from ghostkv.runtime.ghost_attention import NAME, register, set_policy
from ghostkv.runtime.ghost_cache import LayerMemory, ghost_layer
from ghostkv.runtime.measure import compare_decoding
from ghostkv.runtime.policy import Policy, identity_policy
from ghostkv.runtime.rewind import cut_back, kept_aside
from ghostkv.runtime.traffic import Traffic


def captured_context(
    model: PreTrainedModel, folder: str, layers: Sequence[int], cache_dtype: str
) -> Iterator[LayerCapture] | None:
    """What a text left in the cache, where every layer of it was captured as attention read it; else None."""
    held = range(len(new_cache(model).layers))
    if cache_dtype != "float16" or tuple(held) != tuple(layers):
        return None
    return (read_layer(folder, layer) for layer in held)


@dataclass(frozen=True)
class Continued:
    """What one policy said, and what it read."""

    logits: np.ndarray  # float32 [positions, vocabulary]
    traffic: Traffic
    seconds: float  # CPU time of the forward pass


@dataclass
class Continuation:
    """A model with the cache of one dense context; every policy starts from that same cache."""

    model: PreTrainedModel
    ids: Sequence[int]  # context and continuation
    context: int  # tokens that are read densely
    # A policy that watches the queries of the dense prefill (H2O, SnapKV). What it saw is kept for all of its kind.
    observer: Policy | None = None
    # Every layer of a capture of the text: the cache then holds those K and V, and the model does not read the context again.
    # Nobody can watch it, so an observer has it read all the same.
    captured: Iterable[LayerCapture] | None = None
    _cache: Any = field(default=None, init=False)
    _seen: dict[int, LayerMemory] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self._tokens = torch.as_tensor(np.asarray(self.ids, np.int64), device=self.model.device)[None]
        register()
        self._own = own_implementation(self.model, NAME)
        self.model.set_attn_implementation(NAME)
        layers = tuple(range(self.model.config.get_text_config().num_hidden_layers))
        self.dense = Policy("dense", {}, dense_layers=layers, certificate="nothing is eliminated")
        self._cache = new_cache(self.model)
        if self.captured is None or self.observer is not None:
            self._read()
        else:
            self._fill(self.captured)
        give_back()
        self._aside = kept_aside(self._cache)
        if self.observer is not None:
            memories = {layer: getattr(one, "memory", None) for layer, one in enumerate(self._cache.layers)}
            # Layers whose window slides stay dense, and nobody observes them.
            self._seen = {layer: memory for layer, memory in memories.items() if memory is not None}

    def _read(self) -> None:
        set_policy(self.model, self.observer or self.dense)
        with torch.inference_mode():
            self.model(self._tokens[:, : self.context], cache=self._cache, use_cache=True, logits_to_keep=1)

    def _fill(self, captured: Iterable[LayerCapture]) -> None:
        for one in captured:
            keys, values = (
                each[None, :, : self.context].astype(np.float32) for each in (one.keys, one.values)
            )
            held = (torch.from_numpy(each).to(self.model.device, self.model.dtype) for each in (keys, values))
            self._cache.update(*held, one.layer)

    def identity(self) -> dict[str, float | int]:
        """How far the model is from itself on the first tokens of the continuation; as `compare_decoding` tells it."""
        few = self._tokens[:, : self.context + 8]
        return compare_decoding(
            self.model, self._cache, few, self.context, identity_policy(self.model.config)
        )

    def decode(self, policy: Policy, positions: int | None = None) -> Continued:
        """Teacher-forced logits of the first `positions` tokens after the context; the cache is as before afterwards.

        A policy with sparse prefill reads the context under itself as well, into a cache of its own, and that counts.
        """
        stop = len(self.ids) if positions is None else self.context + positions
        cache, first = self._start(policy)
        traffic, begin = set_policy(self.model, policy), time.process_time()
        with torch.inference_mode():
            out = self.model(
                self._tokens[:, first:stop], cache=cache, use_cache=True, logits_to_keep=stop - self.context
            )
        seconds = time.process_time() - begin
        self._restore()
        return Continued(out.logits[0].float().cpu().numpy(), traffic, seconds)

    def own(self) -> np.ndarray:
        """Logits of the whole continuation by the model's own attention, float32 of shape [positions, vocabulary]."""
        self.model.set_attn_implementation(self._own)
        try:
            with torch.inference_mode():
                out = self.model(self._tokens[:, self.context :], cache=self._cache)
        finally:
            self.model.set_attn_implementation(NAME)
            self._restore()
        return out.logits[0].float().cpu().numpy()

    def generate(self, policy: Policy, tokens: int) -> tuple[list[int], Traffic, float]:
        """Greedy continuation of the context, one token at a time; new ids, what was read, and seconds."""
        cache, _ = self._start(policy)
        traffic, begin = set_policy(self.model, policy), time.perf_counter()
        prompt = self._tokens[:, : self.context + 1]
        with torch.inference_mode():
            out = self.model.generate(
                prompt,
                attention_mask=torch.ones_like(prompt),
                cache=cache,
                max_new_tokens=tokens,
                do_sample=False,
                # What an untrained or chat model calls the end is none for text that goes on.
                eos_token_id=None,
                pad_token_id=0,
            )
        seconds = time.perf_counter() - begin
        self._restore()
        return out[0, self.context + 1 :].tolist(), traffic, seconds

    def _start(self, policy: Policy) -> tuple[DynamicCache, int]:
        """The cache that a policy decodes from, and the first token that it has to read.

        Policies that observe the dense prefill are handed what was seen.
        """
        if policy.prefill == "sparse":
            return new_cache(self.model), 0
        for layer, decider in policy.deciders.items():
            if decider.observes and layer in self._seen:
                ghost_layer(self._cache, layer).memory = replace(self._seen[layer], decider=decider)
        return self._cache, self.context

    def _restore(self) -> None:
        cut_back(self._cache, self.context, self._aside)
        # Policies hold arrays of many sizes: what one leaves would lie beside what the next asks for.
        give_back()
