"""A layer some of whose KV heads are decided and others read whole, because elimination would cost them more than it saves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ghostkv.runtime.call_views import views
from ghostkv.runtime.combine import combine
from ghostkv.runtime.deciders import Call, Decider
from ghostkv.runtime.traffic import dense_rows, made


@dataclass(frozen=True)
class PartlyDense(Decider):
    """Read some KV heads whole, without a record of them, and let another decider have the rest.

    Attributes
    ----------
    decider : Decider
        Fitted for the other KV heads alone, of ghost records or certified mass; its state is that of the layer.
    dense : tuple of int
        KV heads that are read whole, ascending; some of the layer's, not all.
    """

    decider: Decider
    dense: tuple[int, ...]

    def __post_init__(self) -> None:
        heads = (*self.dense,)
        if not heads or heads != tuple(sorted(set(heads))) or heads[0] < 0 or heads[-1] >= self.kv_heads:
            raise ValueError(f"KV heads {list(heads)} of {self.kv_heads} cannot be the dense ones")

    @classmethod
    def of(cls, decider: Decider, dense: Sequence[int]) -> PartlyDense:
        """From a decider of all KV heads of the layer."""
        rest = [head for head in range(decider.kv_heads) if head not in dense]
        return cls(decider.part(rest), tuple(sorted(dense)))

    @property
    def name(self) -> str:
        return self.decider.name

    @property
    def kv_heads(self) -> int:
        return self.decider.kv_heads + len(self.dense)

    @property
    def rest(self) -> list[int]:
        """KV heads that are decided."""
        return [head for head in range(self.kv_heads) if head not in self.dense]

    def start(self) -> Any:
        return self.decider.start()

    def check(self, heads: int, kv_heads: int, head_dim: int, where: str) -> None:
        left = kv_heads - len(self.dense)
        self.decider.check(
            heads * left // kv_heads,
            left,
            head_dim,
            f"{where}, without KV heads {[*self.dense]}, which stay dense",
        )

    def attend(self, state: Any, call: Call) -> tuple[np.ndarray, np.ndarray]:
        # Here and not in the decider, which would count heads of its own.
        call.refuse_unfit()
        out = call.empty()
        decided, rows = self.decider.attend(state, _of_heads(call, self.rest))
        rows = made(rows)
        out[:, :, _readers(call, self.rest)] = decided
        whole = _of_heads(call, self.dense)
        out[:, :, _readers(call, self.dense)], visible = _whole(whole)
        call.refuse_unfit(call.keys.shape[2], out)
        read = dense_rows(visible, call.sinks, call.hot, call.group, call.pair)
        # The last column is no sum: what is dense has no certificate, and needs none.
        return out, np.concatenate([rows[:, :-1] + read[:, :-1], np.fmax(rows[:, -1:], read[:, -1:])], axis=1)


def _readers(call: Call, kv_heads: Sequence[int]) -> np.ndarray:
    """Heads that read these KV heads."""
    return np.concatenate([np.arange(call.group) + head * call.group for head in kv_heads])


def _of_heads(call: Call, kv_heads: Sequence[int]) -> Call:
    """Some of the KV heads and who reads them, as a call of their own."""
    query = call.query.take(_readers(call, kv_heads), axis=1)
    return replace(
        call, query=query, keys=call.keys.take(kv_heads, axis=1), values=call.values.take(kv_heads, axis=1)
    )


def _whole(call: Call) -> tuple[np.ndarray, np.ndarray]:
    """Exact attention, and how many keys each KV head sees, float64 [batch, kv_heads, queries]."""
    out = np.zeros_like(call.empty())
    visible = np.zeros((*call.keys.shape[:2], call.query.shape[2]))
    for b, h, some, view in views(call):
        scores = view.scores()
        seen = np.ones(scores.shape, bool)
        output = combine(scores, seen, ~seen, view).output
        out[b, some, h * call.group : (h + 1) * call.group] = output.transpose(1, 0, 2)
        visible[b, h, some] = view.visible.visible
    return out, visible
