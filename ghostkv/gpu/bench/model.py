"""A whole decode step of a random model of Llama-3.1-8B's shape, with dense attention and under elimination."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch.nn.functional import linear, rms_norm, silu

from ghostkv.gpu.bench.clock import Clock
from ghostkv.gpu.bench.dense import dense_ways
from ghostkv.gpu.bench.layers import GeneratedLayer, StepShape, generated, sharing, with_share
from ghostkv.gpu.bench.parts import SHARES, described, timed_dense
from ghostkv.gpu.decode import write_records

# Contexts and batches of a step of the whole model.
CONTEXTS = ((128 * 1024, 1), (128 * 1024, 6))


@dataclass(frozen=True)
class ModelSizes:
    """Of a model; Llama-3.1-8B's."""

    layers: int = 32
    hidden: int = 4096
    inner: int = 14336
    words: int = 128256


class RandomModel:
    """Weights and one step. Queries of the generated layer stand in place of projected ones, whose survivors nobody chose."""

    def __init__(self, sizes: ModelSizes, shape: StepShape, device: torch.device):
        def made(*size: int) -> torch.Tensor:
            return torch.empty(size, dtype=shape.dtype, device=device).normal_(std=0.02)

        width = shape.head_dim
        self.sizes, self.shape = sizes, shape
        self.into = [
            made((shape.heads + 2 * shape.kv_heads) * width, sizes.hidden) for _ in range(sizes.layers)
        ]
        self.back = [made(sizes.hidden, shape.heads * width) for _ in range(sizes.layers)]
        self.gate_up = [made(2 * sizes.inner, sizes.hidden) for _ in range(sizes.layers)]
        self.down = [made(sizes.hidden, sizes.inner) for _ in range(sizes.layers)]
        self.words = made(sizes.words, sizes.hidden)
        self.token = torch.zeros(shape.batch, dtype=torch.long, device=device)

    def step(self, layers: list[GeneratedLayer], attend: Callable[[int], torch.Tensor]) -> torch.Tensor:
        """Logits of the next token, float [batch, words]; `attend` gives a layer's attention [batch, heads, head_dim]."""
        shape, eps = self.shape, 1e-5
        state = self.words[self.token]
        queries = shape.heads * shape.head_dim
        for number, layer in enumerate(layers):
            folded = linear(rms_norm(state, state.shape[-1:], eps=eps), self.into[number])
            k, v = folded[:, queries:].view(shape.batch, 2, shape.kv_heads, shape.head_dim).unbind(1)
            last = shape.tokens - 1
            layer.keys[:, :, last], layer.values[:, :, last] = k, v
            seen = attend(number).reshape(shape.batch, queries)
            # The projected queries are computed and not asked.
            state = state + linear(seen + 0 * folded[:, :queries], self.back[number])
            gate, up = linear(rms_norm(state, state.shape[-1:], eps=eps), self.gate_up[number]).chunk(2, -1)
            state = state + linear(silu(gate) * up, self.down[number])
        return linear(rms_norm(state, state.shape[-1:], eps=eps), self.words)


def whole_step(clock: Clock) -> Iterator[dict]:
    """Both kinds of step, with one share of survivors."""
    for tokens, batch in [(160, 1)] if clock.interprets else CONTEXTS:
        if clock.left() < 0:
            return
        shape = StepShape(batch, tokens, 1, 2, 64, 8) if clock.interprets else StepShape(batch, tokens)
        sizes = ModelSizes(2, 96, 128, 50) if clock.interprets else ModelSizes()
        weights = sizes.words + sizes.layers * (sizes.inner * 3 + 3 * shape.heads * shape.head_dim)
        wanted = 1.1 * (sizes.layers * shape.cache_bytes + 2 * weights * sizes.hidden)
        if not clock.interprets and wanted > torch.cuda.mem_get_info(clock.device)[0]:
            yield {**described(shape), "skipped": "the model has no room on this card"}
            continue
        yield from _both_ways(clock, shape, sizes)
        if not clock.interprets:
            torch.cuda.empty_cache()


def _both_ways(clock: Clock, shape: StepShape, sizes: ModelSizes) -> Iterator[dict]:
    first = generated(shape, clock.device)
    share = with_share(first, SHARES[0])
    found, _ = timed_dense(clock, first)
    best = found["dense_best"] or next(iter(found["dense"]))
    layers = [first, *(sharing(first) for _ in range(sizes.layers - 1))]
    # One tensor for all layers: a launch takes a record a row back, so that each step has one to write.
    written = torch.stack([first.records.written] * sizes.layers)
    for layer, one in zip(layers, written, strict=True):
        layer.records = replace(layer.records, written=one)
    model = RandomModel(sizes, shape, clock.device)
    dense = [dense_ways(layer, clock.interprets)[best] for layer in layers]

    def ghost(number: int) -> torch.Tensor:
        layer = layers[number]
        if number == 0:
            written.sub_(1)
        write_records(
            layer.keys, layer.values, layer.frames, layer.records, layer.rule, layer.start, layer.length
        )
        return layer.step()[0]

    for name, attend in (("dense", lambda number: dense[number]()), ("ghost", ghost)):
        logits = model.step(layers, attend)
        spent = clock.time(lambda attend=attend: model.step(layers, attend))
        yield {
            **described(shape), **vars(sizes), "way": name, "dense_best": best, "share": share, "step": spent,
            "finite": bool(torch.isfinite(logits).all()),
        }  # fmt: skip
