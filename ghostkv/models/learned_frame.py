"""Train the frame of a transform code for what elimination needs: top keys above the threshold, others below.

The query-aware frame minimises the mean squared error of all scores. A threshold cares about few of them: an
exact top key whose estimate falls below it is lost, any other key whose estimate is above it is read in vain.
The two do not weigh alike, so the loss is asymmetric in the way of Neyman and Pearson: a batch's threshold is
put where all but a small share of the top keys stay above it, and what is minimised is a smooth count of the
other keys above it. Gradients pass the quantiser straight through (Bengio et al. 2013). Torch stays in this
module; a NumPy matrix comes out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ghostkv.captures.capture_files import LayerCapture
from ghostkv.codecs import Codec
from ghostkv.elimination.attention import cold_range

# Queries of a text that training draws from.
_QUERIES = 128


@dataclass(frozen=True)
class TrainingText:
    """One codec text, seen from the query-aware frame."""

    keys: np.ndarray  # float32 [keys, dims]; coordinates ``y``
    queries: np.ndarray  # float32 [queries, dims]; coordinates ``z`` times the model's scale
    # float32 [queries]; k-th largest of each query's cold scores, less the part that does not depend on the frame
    tau: np.ndarray
    # int64 [queries]; cold keys
    start: np.ndarray
    stop: np.ndarray


@dataclass(frozen=True)
class TrainedFrame:
    """A frame and how training went."""

    frame: np.ndarray  # float64 [head_dim, head_dim]
    losses: np.ndarray  # float64 [steps]


def training_text(
    capture: LayerCapture, kv_head: int, codec: Codec, exact: tuple[int, int, int], seed: int
) -> TrainingText | None:
    """Keys and a sample of queries of one codec text in a fitted codec's frame.

    Parameters
    ----------
    capture : LayerCapture
        With the queries that training may use.
    codec : Codec
        Fitted; its metric is the frame that training starts from.
    exact : tuple of int
        Sinks, hot window, top-k.

    Returns
    -------
    TrainingText or None
        None where no query has more than `top_k` cold keys.
    """
    sinks, hot, top_k = exact
    visible = cold_range(capture.positions, capture.first_visible(), sinks, hot)
    usable = np.flatnonzero(visible.cold > top_k)
    if not len(usable):
        return None
    rng = np.random.default_rng(seed)
    heads, rows = np.meshgrid(np.arange(capture.group), usable, indexing="ij")
    picked = rng.permutation(heads.size)[:_QUERIES]
    heads, rows = heads.ravel()[picked], rows.ravel()[picked]
    dual = np.linalg.inv(codec.metric_)
    keys = ((capture.keys[kv_head].astype(np.float64) - codec.mean_) @ codec.metric_.T).astype(np.float32)
    queries = (capture.group_queries(kv_head)[heads, rows] * capture.scale @ dual).astype(np.float32)
    scores = queries @ keys.T
    cold = visible.at(rows)
    scores[~cold.mask(len(keys))] = -np.inf
    tau = np.partition(scores, -top_k, axis=1)[:, -top_k]
    return TrainingText(keys, queries, tau, cold.start, cold.stop)


def train_frame(
    texts: Sequence[TrainingText],
    codec: Codec,
    steps: int,
    rate: float,
    lost: float,
    batch: tuple[int, int],
    seed: int,
) -> TrainedFrame:
    """Train ``A = (I + M) W`` with Adam, from ``M = 0``.

    Parameters
    ----------
    codec : Codec
        The fitted transform code; its metric is ``W``, its bits are those that training quantises with.
    rate : float
        Decays to zero along a cosine.
    lost : float
        Share of a batch's top keys that may fall below its threshold.
    batch : tuple of int
        Queries and keys of one step.
    """
    import torch

    written = _written(codec)
    generator = np.random.default_rng(seed)
    width = codec.metric_.shape[0]
    tensors = [tuple(map(torch.from_numpy, (t.keys, t.queries, t.tau, t.start, t.stop))) for t in texts]
    change = torch.zeros((width, width), requires_grad=True)
    optimiser = torch.optim.Adam([change], lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    quantise = _Quantiser(codec, written, tensors[0][0])
    error = quantise.score_error(tensors)
    losses = np.empty(steps)
    identity = torch.eye(width)
    for step in range(steps):
        keys, queries, tau, start, stop = tensors[step % len(tensors)]
        chosen = torch.from_numpy(generator.choice(len(keys), min(batch[1], len(keys)), replace=False))
        rows = torch.from_numpy(generator.choice(len(queries), min(batch[0], len(queries)), replace=False))
        forward = identity + change
        y = quantise(keys[chosen] @ forward[written].T)
        z = torch.linalg.solve(forward.T, queries[rows].T)[written]
        cold = (chosen >= start[rows, None]) & (chosen < stop[rows, None])
        top = cold & (queries[rows] @ keys[chosen].T >= tau[rows, None])
        gap = (z.T @ y.T - tau[rows, None]) / error
        needless = torch.nn.functional.softplus(gap[cold & ~top] - _threshold(gap[top], lost)).sum()
        loss = needless / top.sum().clamp(min=1)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        losses[step] = loss.item()
    frame = (identity + change).detach().numpy().astype(np.float64) @ codec.metric_
    return TrainedFrame(frame, losses)


def _threshold(top, lost: float):
    """Where a share `lost` of the top keys lies below: the mean of the lowest 2 `lost`, which has a gradient."""
    lowest = max(1, round(2 * lost * top.numel()))
    return top.topk(min(lowest, top.numel()), largest=False).values.mean() if top.numel() else 0.0


def _written(codec: Codec) -> np.ndarray:
    """Rows of the metric that the codec writes, in the order of its coordinates."""
    gaps = np.abs(codec.metric_[None] - codec.encoder_[:, None]).max(axis=2)
    return gaps.argmin(axis=1)


class _Quantiser:
    """The codec's uniform quantiser, straight-through: levels forwards, identity backwards."""

    def __init__(self, codec: Codec, written: np.ndarray, keys):
        import torch

        self.written = written
        quantiser = codec.quantiser_
        spread = keys.numpy()[:, written].std(axis=0)
        # Steps follow the spread of their coordinate, which training changes.
        self.step = torch.from_numpy((quantiser.step / np.maximum(spread, 1e-12)).astype(np.float32))
        self.top = torch.from_numpy(((1 << quantiser.bits) - 1).astype(np.float32))

    def __call__(self, y):
        import torch

        centre = y.mean(dim=0).detach()
        step = self.step * y.std(dim=0).detach().clamp(min=1e-12)
        level = torch.clamp(torch.round((y.detach() - centre) / step + self.top / 2), min=0)
        level = torch.minimum(level, self.top)
        return y + (centre + (level - self.top / 2) * step - y).detach()

    def score_error(self, tensors) -> float:
        """Root mean square error of estimates before training, the scale of the smooth counts."""
        squares = [
            ((queries @ keys.T - queries[:, self.written] @ self(keys[:, self.written]).T) ** 2).mean().item()
            for keys, queries, *_ in tensors
        ]
        return max(float(np.sqrt(np.mean(squares))), 1e-6)
