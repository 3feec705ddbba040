"""Answers under a policy: one dense prefill of a context, many questions and policies on its cache.

Decoding is greedy and exact. A draft of the answer is fed together with the question, and what the model would
have said itself is read off every position; the draft's wrong part is thrown away. So a right answer costs one
forward pass, a wrong one no more than ordinary decoding, and the tokens are those of ordinary decoding. A policy that
spends one budget over all queries of a call would read otherwise beside a draft: it gets none.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import polars as pl
import torch
from transformers import DynamicCache, PreTrainedModel

from ghostkv.models.probe import new_cache
from ghostkv.runtime.ghost_attention import dense_attention, set_policy
from ghostkv.runtime.policy import Policy
from ghostkv.runtime.rewind import cut_back, kept_aside
from ghostkv.runtime.seated import UNDO, Seated
from ghostkv.runtime.traffic import COLUMNS

# Tokens of a context that are read at once: with a mask, attention computes its upper triangle too.
_PIECE = 512


@dataclass(frozen=True)
class Answer:
    """What was said, and what was read for it."""

    tokens: list[int]  # without the stop token
    # Sums of `ghostkv.runtime.traffic.COLUMNS` over layers and over the queries of question and answer
    traffic: dict[str, float]
    forwards: int  # forward passes


class Reader:
    """A model with a context in its cache.

    Parameters
    ----------
    model : PreTrainedModel
        With ``attn_implementation="ghostkv"``.
    dense : Policy
        The policy that eliminates nothing; it reads contexts.
    stop : collection of int
        Tokens that end an answer.
    """

    def __init__(self, model: PreTrainedModel, dense: Policy, stop: Sequence[int]):
        self.model, self.dense, self.stop = model, dense, frozenset(stop)
        self._dense = self._now = _Held(new_cache(model), [])

    @torch.inference_mode()
    def read(self, context: Sequence[int], policy: Policy | None = None) -> int:
        """Have the context, and nothing else, in the cache; returns how many tokens were computed.

        What the cache has of it already is kept. A policy that observes the prefill (SnapKV, H2O), or decides in it,
        reads the context from its start.
        """
        own = policy if policy is not None and _must_read(policy) else None
        # The dense cache stays: the next policy goes on from it.
        ids = list(context)
        if own is not None or not self._dense.goes_on(ids):
            self._now = _Held(new_cache(self.model), [])
            self._dense = self._dense if own is not None else self._now
        else:
            self._now = self._dense
        held = self._now
        shared = _shared(held.ids, ids)
        held.crop(shared)
        set_policy(self.model, own or self.dense)
        if shared < len(ids):
            with nullcontext() if own else dense_attention(self.model):
                # A policy that looks back over the whole prompt gets it in one piece.
                piece = len(ids) if own else _PIECE
                for start in range(shared, len(ids), piece):
                    block = self._ids(ids[start : min(start + piece, len(ids))])
                    self.model.base_model(block, cache=held.cache, use_cache=True)
        held.ids, held.aside = ids, kept_aside(held.cache)
        return len(ids) - shared

    @torch.inference_mode()
    def answer(
        self,
        question: Sequence[int],
        draft: Sequence[int],
        limit: int,
        policy: Policy | None = None,
        enough: Callable[[list[int]], bool] = lambda tokens: False,
    ) -> Answer:
        """Answer greedily; the cache holds the context alone afterwards.

        Parameters
        ----------
        question : sequence of int
            Question and beginning of the answer.
        draft : sequence of int
            A guess at the answer. It changes the cost, not the answer.
        limit : int
            Most tokens of an answer.
        policy : Policy, optional
            Dense if left out.
        enough : callable
            Whether the tokens so far need no others (the score can rise no more).
        """
        policy = policy or self.dense
        held = self._now
        base, said, feed, guess = len(held.ids), [], list(question), list(draft)
        # What a wrong draft leaves in a recurrent layer cannot be taken back.
        longest = 0 if held.aside else _longest_draft(policy)
        # A policy that observed the prefill keeps its state: setting it again would not lose it.
        traffic, read, forwards, ended = set_policy(self.model, policy), [], 0, False
        while not ended:
            fed = guess[: min(limit - len(said), longest)]
            traffic.reset()
            hidden = self.model.base_model(self._ids(feed + fed), cache=held.cache, use_cache=True)[0]
            forwards += 1
            chosen = self.model.get_output_embeddings()(hidden[0, len(feed) - 1 :]).argmax(-1).tolist()
            right = _shared(chosen, fed)
            fresh = chosen[: right + 1]
            base += len(feed) + right
            read.append(traffic.queries().filter(pl.col("position") < base))
            held.crop(base)
            for token in fresh:
                ended = token in self.stop or len(said) >= limit
                if ended:
                    break
                said.append(token)
                ended = len(said) >= limit or enough(said)
                if ended:
                    break
            feed, guess = [chosen[right]], guess[right + 1 :]
        held.crop(len(held.ids))
        sums = pl.concat(read).select(pl.col(COLUMNS).sum()).row(0, named=True)
        return Answer(said, sums, forwards)

    def _ids(self, tokens: Sequence[int]) -> torch.Tensor:
        return torch.tensor([tokens], device=self.model.device)


@dataclass
class _Held:
    """A cache and the tokens that it holds."""

    cache: DynamicCache
    ids: list[int]
    aside: dict[int, Any] = field(default_factory=dict)  # as `kept_aside` gives it, of these tokens

    def goes_on(self, ids: list[int]) -> bool:
        """Whether other tokens can be had from here: by cutting back, or because they begin with these."""
        return not self.aside or ids[: len(self.ids)] == self.ids

    def crop(self, tokens: int) -> None:
        if self.cache.get_seq_length() > tokens:
            cut_back(self.cache, tokens, self.aside)
        self.ids = self.ids[:tokens]


def _must_read(policy: Policy) -> bool:
    return policy.prefill == "sparse" or any(decider.observes for decider in policy.deciders.values())


def _longest_draft(policy: Policy) -> int:
    """Tokens that may be fed before it is known that the model would have said them."""
    seats = [decider for decider in policy.deciders.values() if isinstance(decider, Seated)]
    # The box of a page that reaches beyond the hot window would hold keys of the draft.
    wide = any(getattr(seat.selector, "page", 0) > policy.hot for seat in seats)
    if wide or any(seat.pools for seat in seats):
        return 0
    return UNDO if any(seat.observes for seat in seats) else sys.maxsize


def _shared(first: Sequence[int], second: Sequence[int]) -> int:
    """Length of the common beginning."""
    for i, (one, other) in enumerate(zip(first, second, strict=False)):
        if one != other:
            return i
    return min(len(first), len(second))
