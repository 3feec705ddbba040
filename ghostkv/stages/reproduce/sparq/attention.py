"""SparQ attention as its authors define it (Ribar et al. 2024, algorithm 1 and appendix C), in a layer of the model."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ghostkv.codecs.base import ELEMENT_BYTES
from ghostkv.elimination.attention import softmax
from ghostkv.runtime.call_views import CallView, views
from ghostkv.runtime.deciders import Call, Decider
from ghostkv.runtime.ledger import Ledger


class Nothing:
    """What a decider remembers that looks at the keys anew each time."""

    def truncate(self, tokens: int) -> None:
        """Nothing is forgotten."""

    def select(self, rows: np.ndarray) -> None:
        """Nothing goes on."""


@dataclass(frozen=True)
class PublishedSparQ(Decider):
    """Reads the `keys` of best score in the `components` largest coordinates of a query; those of the hot window are among them."""

    components: int
    keys: int
    name: str = field(default="published_sparq", init=False)

    def start(self) -> Nothing:
        return Nothing()

    def attend(self, state: Nothing, call: Call) -> tuple[np.ndarray, np.ndarray]:
        call.refuse_unfit()
        out, counts = np.zeros_like(call.empty()), Ledger(call)
        for b, h, some, view in views(call):
            read, output = self._head(view)
            out[b, some, h * call.group : (h + 1) * call.group] = output.transpose(1, 0, 2)
            own = np.broadcast_to(read & view.visible.mask(len(view.keys)), (call.group, *read.shape))
            record = min(self.components, view.keys.shape[1]) * ELEMENT_BYTES * view.visible.cold
            counts.add(b, h, some, view.visible, own, record, record * call.group)
        call.refuse_unfit(call.keys.shape[2], out)
        return out, counts.rows()

    def _head(self, view: CallView) -> tuple[np.ndarray, np.ndarray]:
        """Which keys a KV head reads, bool [queries, keys], and its heads' outputs [group, queries, value_dim]."""
        size = np.abs(view.queries)
        order = np.argsort(-size.sum(axis=0), axis=-1, kind="stable")[:, : self.components]
        chosen = np.zeros(size.shape[1:], bool)
        np.put_along_axis(chosen, order, True, axis=-1)
        part = np.where(chosen, size, 0).sum(axis=-1) / np.maximum(size.sum(axis=-1), 1e-30)
        exact = view.scores()
        seen = exact > -np.inf
        about = view.scale * (np.where(chosen, view.queries, 0) @ view.keys.T)
        about = np.where(seen, about / np.sqrt(np.maximum(part, 1e-6))[..., None], -np.inf)
        guess = softmax(about, dtype=np.float64)[0]
        read = self._best(guess.sum(axis=0), view)
        kept, _ = softmax(np.where(read, exact, -np.inf), dtype=np.float64)
        share = np.where(read, guess, 0).sum(axis=-1, keepdims=True)
        mean = seen[0] @ view.values / seen[0].sum(axis=-1, keepdims=True)
        return read, (share * (kept @ view.values) + (1 - share) * mean).astype(np.float32)

    def _best(self, guess: np.ndarray, view: CallView) -> np.ndarray:
        cold = view.visible.mask(guess.shape[-1])
        read = view.visible.seen(guess.shape[-1]) & ~cold
        for row, keys in enumerate(read):
            wanted = min(self.keys - int(keys.sum()), int(cold[row].sum()))
            if wanted > 0:
                ranked = np.where(cold[row], guess[row], -1.0)
                keys[np.argpartition(ranked, -wanted)[-wanted:]] = True
        return read
