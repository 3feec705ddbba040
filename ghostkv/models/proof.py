"""The proof of a capture: attention recomputed from what is stored equals the model's own output.

It shares no code with the model: scores, mask, soft cap and softmax are written out here, in float32, at the
sampled queries only, so memory is [group x queries, tokens] for one KV head at a time.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ghostkv.captures.capture_files import LayerCapture

# Of longer series of queries so many are compared, evenly spaced: those of a trace would cost as much as its forward pass.
_COMPARED = 512
# Recomputing twice for every query would cost a tenth of the forward pass.
_STORAGE_STRIDE = 4
# Queries that are recomputed at once.
_BLOCK = 32


def visible_keys(positions: Tensor, tokens: int, window: int) -> Tensor:
    """Which keys each query sees, bool [queries, tokens]: 0..position, or position-window+1..position in a
    sliding window."""
    key, query = torch.arange(tokens)[None], positions[:, None]
    visible = key <= query
    return visible & (key > query - window) if window else visible


def recompute(capture: LayerCapture, keys: Tensor, values: Tensor) -> Tensor:
    """softmax(softcap(scale q.k)) v over the visible keys, for every sampled query.

    Parameters
    ----------
    capture : LayerCapture
        Gives queries, positions, scale, window and soft cap.
    keys, values : Tensor, shapes [kv_heads, tokens, head_dim] and [kv_heads, tokens, value_dim]

    Returns
    -------
    Tensor of float32, shape [heads, queries, value_dim]
    """
    queries = torch.from_numpy(capture.queries) * capture.scale
    positions = torch.from_numpy(capture.positions).long()
    grouped = queries.reshape(capture.kv_heads, capture.group, len(positions), -1)
    outputs = torch.empty(capture.kv_heads, capture.group, len(positions), values.shape[-1])
    for h, (k, v) in enumerate(zip(keys, values, strict=True)):
        k, v = k.float(), v.float()
        for some in torch.arange(len(positions)).split(_BLOCK):
            # Positions ascend, so no query of the block sees a key beyond its last one's.
            last = int(positions[some[-1]]) + 1
            scores = grouped[h, :, some] @ k[:last].T
            if capture.softcap:
                scores.div_(capture.softcap).tanh_().mul_(capture.softcap)
            # Keys up to the block's first query are seen by all of it, unless the window has left them behind.
            doubtful = 0 if capture.window else int(positions[some[0]])
            hidden = ~visible_keys(positions[some], last, capture.window)[:, doubtful:]
            scores[..., doubtful:].masked_fill_(hidden, -torch.inf)
            outputs[h, :, some] = torch.softmax(scores, dim=-1) @ v[:last]
    return outputs.reshape(capture.heads, len(positions), -1)


def prove(capture: LayerCapture, keys: Tensor, values: Tensor, read_stored: bool) -> dict[str, float | int]:
    """Compare the recorded outputs with attention recomputed from the stored and from the unrounded K and V.

    Parameters
    ----------
    capture : LayerCapture
        Its float16 keys and values are what the file holds.
    keys, values : Tensor
        K and V as the layer made them, before any rounding.
    read_stored : bool
        Attention read the stored K and V, not the unrounded ones.

    Returns
    -------
    dict
        `max_relative_error`, `mean_relative_error`: worst and mean over (head, query) of ‖o − ô‖ / ‖o‖, ô
        from the stored K, V, at 512 queries at most. `layer_relative_error`: ‖O − Ô‖ / ‖O‖ over the whole layer.
        `exact_relative_error`: worst, with K, V as attention read them. `storage_relative_error`: worst
        change of ô by rounding K, V to float16 (over every fourth query where attention read the rounded
        ones: it is told, not proved). `recomputed`: outputs compared.
    """
    capture = capture.at(slice(None, None, -(-len(capture.positions) // _COMPARED)))
    own = torch.from_numpy(capture.outputs)
    stored = recompute(capture, torch.from_numpy(capture.keys), torch.from_numpy(capture.values))
    relative = _relative(stored, own)
    some = slice(None, None, _STORAGE_STRIDE if read_stored else 1)
    raw = recompute(capture.at(some), keys, values)
    return {
        "max_relative_error": float(relative.max()),
        "mean_relative_error": float(relative.mean()),
        "layer_relative_error": float((stored - own).norm() / own.norm()),
        "exact_relative_error": float((relative if read_stored else _relative(raw, own)).max()),
        "storage_relative_error": float(_relative(stored[:, some], raw).max()),
        "recomputed": relative.numel(),
    }


def _relative(estimate: Tensor, reference: Tensor) -> Tensor:
    # An all-zero output is reproduced only by zero; the smallest normal float keeps 0/0 from being NaN.
    return (estimate - reference).norm(dim=-1) / reference.norm(dim=-1).clamp_min(
        torch.finfo(torch.float32).tiny
    )
