"""The proof of a capture: attention recomputed from what is stored equals the model's own output.

It shares no code with the model: scores, mask, soft cap and softmax are written out here, in float32, at the
sampled queries only, so memory is [group x queries, tokens] for one KV head at a time. It runs where the model does.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ghostkv.captures.capture_files import LayerCapture

# Of longer series of queries so many are compared, evenly spaced: those of a trace would cost as much as its forward pass.
_COMPARED = 512
# Recomputing twice for every query would cost a tenth of the forward pass.
_STORAGE_STRIDE = 4
# Queries that are recomputed at once.
_BLOCK = 32
# Roundings of a score that eager attention computes in the model's dtype: the product, the scale, and the soft cap's
# division, tanh (which enlarges no relative error) and product; and one for what is of second order.
_OF_SCORES = 6


@dataclass(frozen=True)
class Rounding:
    """What an attention rounds to the model's dtype: weights and output, and the scores where they are not float32."""

    unit: float  # unit roundoff: the largest relative error of one rounding
    least: float  # the largest error of rounding a number below the smallest normal one
    scores: int  # roundings of a score

    @classmethod
    def of(cls, dtype: torch.dtype, keeps_scores: bool) -> Rounding:
        """Of a model's dtype; `keeps_scores` as `ghostkv.models.interface.keeps_scores` says it."""
        kind = torch.finfo(dtype)
        return cls(kind.eps / 2, kind.smallest_normal * kind.eps / 2, 0 if keeps_scores else _OF_SCORES)

    def bound(self, scores: Tensor, weights: Tensor, sizes: Tensor, output: Tensor) -> Tensor:
        """Largest change of each output by these roundings; shape [..., queries].

        Parameters
        ----------
        scores, weights : Tensor, shape [..., queries, keys]
            Before and after the softmax; scores are -inf where a key is not visible.
        sizes : Tensor, shape [keys]
            Norms of the values.
        output : Tensor, shape [..., queries, value_dim]
        """
        size = output.norm(dim=-1)
        bound = self.unit * (weights @ sizes + size) + self.least * sizes.sum()
        if self.scores:
            error = self.unit * self.scores * scores.masked_fill(weights == 0, 0).abs()
            moved = weights * torch.expm1(error)
            # o' - o = sum p (e^d - 1) (v - o) / sum p e^d, for scores that are off by d.
            bound += (moved @ sizes + moved.sum(-1) * size) / (weights * torch.exp(-error)).sum(-1)
        return bound


def visible_keys(positions: Tensor, tokens: int, window: int) -> Tensor:
    """Which keys each query sees, bool [queries, tokens]: 0..position, or position-window+1..position in a
    sliding window."""
    key, query = torch.arange(tokens, device=positions.device)[None], positions[:, None]
    visible = key <= query
    return visible & (key > query - window) if window else visible


def recompute(
    capture: LayerCapture, keys: Tensor, values: Tensor, rounding: Rounding | None = None
) -> tuple[Tensor, Tensor]:
    """softmax(softcap(scale q.k)) v over the visible keys, for every sampled query, on the device of the keys.

    Parameters
    ----------
    capture : LayerCapture
        Gives queries, positions, scale, window and soft cap.
    keys, values : Tensor, shapes [kv_heads, tokens, head_dim] and [kv_heads, tokens, value_dim]

    Returns
    -------
    outputs : Tensor of float32, shape [heads, queries, value_dim]
    bounds : Tensor of float32, shape [heads, queries]
        How far each output may lie from an attention that rounds as `rounding` says; 0 without it.
    """
    device = keys.device
    queries = torch.from_numpy(capture.queries).to(device) * capture.scale
    positions = torch.from_numpy(capture.positions).long()
    grouped = queries.reshape(len(keys), -1, len(positions), queries.shape[-1])
    outputs = torch.empty(*grouped.shape[:3], values.shape[-1], device=device)
    bounds = torch.zeros(grouped.shape[:3], device=device)
    for h, (k, v) in enumerate(zip(keys, values, strict=True)):
        k, v = k.float(), v.float()
        sizes = v.norm(dim=-1)
        for some in torch.arange(len(positions)).split(_BLOCK):
            # Positions ascend, so no query of the block sees a key beyond its last one's.
            last = int(positions[some[-1]]) + 1
            scores = grouped[h, :, some] @ k[:last].T
            if capture.softcap:
                scores.div_(capture.softcap).tanh_().mul_(capture.softcap)
            # Keys up to the block's first query are seen by all of it, unless the window has left them behind.
            doubtful = 0 if capture.window else int(positions[some[0]])
            hidden = ~visible_keys(positions[some].to(device), last, capture.window)[:, doubtful:]
            scores[..., doubtful:].masked_fill_(hidden, -torch.inf)
            weights = torch.softmax(scores, dim=-1)
            found = outputs[h, :, some] = weights @ v[:last]
            if rounding is not None:
                bounds[h, :, some] = rounding.bound(scores, weights, sizes[:last], found)
    return outputs.reshape(-1, *outputs.shape[2:]), bounds.reshape(-1, len(positions))


def prove(
    capture: LayerCapture, keys: Tensor, values: Tensor, read_stored: bool, rounding: Rounding
) -> dict[str, float | int]:
    """Compare the recorded outputs with attention recomputed from the stored and from the unrounded K and V.

    Parameters
    ----------
    capture : LayerCapture
        Its float16 keys and values are what the file holds.
    keys, values : Tensor
        K and V as the layer made them, before any rounding.
    read_stored : bool
        Attention read the stored K and V, not the unrounded ones.
    rounding : Rounding
        What the model's attention rounds.

    Returns
    -------
    dict
        `max_relative_error`, `mean_relative_error`: worst and mean over (head, query) of ‖o − ô‖ / ‖o‖, ô
        from the stored K, V, at 512 queries at most. `layer_relative_error`: ‖O − Ô‖ / ‖O‖ over the whole layer.
        `exact_relative_error`: worst, with K, V as attention read them. `storage_relative_error`: worst
        change of ô by rounding K, V to float16 (over every fourth query where attention read the rounded
        ones: it is told, not proved). `unexplained_relative_error`: worst, of what `rounding` leaves unexplained.
        `recomputed`: outputs compared.
    """
    capture = capture.at(slice(None, None, -(-len(capture.positions) // _COMPARED)))
    own, held, shown = (
        torch.from_numpy(one).to(keys.device) for one in (capture.outputs, capture.keys, capture.values)
    )
    stored, bounds = recompute(capture, held, shown, rounding)
    relative = _relative(stored, own)
    some = slice(None, None, _STORAGE_STRIDE if read_stored else 1)
    raw, _ = recompute(capture.at(some), keys, values)
    return {
        "max_relative_error": float(relative.max()),
        "mean_relative_error": float(relative.mean()),
        "layer_relative_error": float((stored - own).norm() / own.norm()),
        "exact_relative_error": float((relative if read_stored else _relative(raw, own)).max()),
        "storage_relative_error": float(_relative(stored[:, some], raw).max()),
        "unexplained_relative_error": float((relative - bounds / _size(own)).clamp_min(0).max()),
        "recomputed": relative.numel(),
    }


def _relative(estimate: Tensor, reference: Tensor) -> Tensor:
    return (estimate - reference).norm(dim=-1) / _size(reference)


def _size(outputs: Tensor) -> Tensor:
    # An all-zero output is reproduced only by zero; the smallest normal float keeps 0/0 from being NaN.
    return outputs.norm(dim=-1).clamp_min(torch.finfo(torch.float32).tiny)
