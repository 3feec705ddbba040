"""What seats decide, held against attention that is written out elsewhere: the proof of captures."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor, nn
from transformers import PreTrainedModel

from ghostkv.captures.capture_files import LayerCapture
from ghostkv.models.proof import recompute
from ghostkv.runtime.ghost_attention import seats
from ghostkv.runtime.seat import Seat


@dataclass
class SeatCheck:
    """The worst output so far of a head at a query.

    Attributes
    ----------
    worst : float
        ‖o − ô‖ / ‖ô‖, ô recomputed from the queries, keys and values that the seat was handed. Not a number where an output
        is none.
    """

    worst: float = 0.0

    def attend(
        self,
        seat: Seat,
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Any,
        **kwargs: Any,
    ) -> Tensor:
        attend = partial(Seat.attend, seat, module)
        if seat.decider is None or kwargs.get("sliding_window"):
            return attend(query, key, value, mask, **kwargs)
        # The same numbers in float32, so that only the last rounding to the model's dtype is left out.
        found = attend(query.float(), key.float(), value.float(), mask, **kwargs)
        scale = kwargs.get("scaling")
        call = LayerCapture(
            layer=seat.layer, keys=None, values=None, outputs=None, queries=query[0].float().cpu().numpy(),
            positions=np.arange(key.shape[2] - query.shape[2], key.shape[2]),
            scale=float(query.shape[-1] ** -0.5 if scale is None else scale), softcap=float(kwargs.get("softcap") or 0.0),
        )  # fmt: skip
        true, _ = recompute(call, key[0], value[0])
        error = (found[0].transpose(0, 1) - true).norm(dim=-1) / true.norm(dim=-1).clamp_min(1e-30)
        # Not max, which forgets what is not a number.
        self.worst = float(np.maximum(self.worst, float(error.max())))
        return found.to(query.dtype)


@contextmanager
def checked_seats(model: PreTrainedModel) -> Iterator[SeatCheck]:
    """Compare what every deciding layer does with one unpadded text, while the context is open.

    Only a policy that eliminates nothing does what is recomputed.
    """
    check, held = SeatCheck(), list(seats(model))
    for seat in held:
        seat.attend = partial(check.attend, seat)
    try:
        yield check
    finally:
        for seat in held:
            del seat.attend
