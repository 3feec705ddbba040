"""What a retrieval task is: a context, a question, the beginning of the answer, and what must be in the answer.

Tasks are those of RULER (Hsieh et al., COLM 2024, arXiv:2404.06654, section 3 and appendix B), built here from
its definitions. Every builder is a function of a `Workshop` and a seed, and fills a budget of tokens with as
much text as fits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from ghostkv.files.errors import ConfigError

Count = Callable[[Sequence[str]], np.ndarray]


@dataclass(frozen=True)
class Example:
    """One question on one context."""

    context: str  # what is read before the question: instruction and text
    question: str
    answer_start: str  # the beginning of the answer, which the model is given
    references: tuple[str, ...]  # what the answer must hold
    # The answer that a perfect reader gives next. A guess that makes decoding quicker; no score depends on it.
    draft: str
    # Where the needle stands, as a share of the text before it; None where there is no single place.
    depth: float | None = None


@dataclass(frozen=True)
class Workshop:
    """What builders work with."""

    count: Count  # sequence of str -> ndarray of int: tokens of each
    room: int  # tokens that context, question and beginning of the answer may fill together
    prose: tuple[str, ...] = ()  # sentences of the haystack, in order, each with its leading space
    questions: dict[str, Sequence] = field(default_factory=dict)  # of `Asked`, by `squad` and `hotpotqa`

    def tokens(self, *texts: str) -> int:
        """Tokens of texts one after the other."""
        return int(np.sum(self.count(texts)))

    def left(self, *texts: str) -> int:
        """Tokens that remain beside these texts; a `ConfigError` where none do."""
        left = self.room - self.tokens(*texts)
        if left <= 0:
            raise ConfigError(
                f"config: a task of retrieval.tasks has room for {self.room} tokens, and its question, needles and "
                f"instructions alone take {self.room - left}.\n  Write: length: {2 * (self.room - left) + 128}   "
                "(or more)"
            )
        return left


@dataclass(frozen=True)
class Hay:
    """A haystack that fits: pieces of text and the tokens before each."""

    pieces: tuple[str, ...]
    before: np.ndarray

    def with_needles(self, needles: Sequence[str], depths: Sequence[float]) -> str:
        """The text with needle i before the piece at which `depths[i]` of the tokens have passed.

        The needles stand between whole pieces, in the order given where they meet.
        """
        places = [int(np.argmin(np.abs(self.before - depth * self.before[-1]))) for depth in depths]
        parts = []
        for place in range(len(self.pieces) + 1):
            parts += [needle for needle, at in zip(needles, places, strict=True) if at == place]
            parts += self.pieces[place : place + 1]
        return "".join(parts).strip()


def fill(pieces: Sequence[str], count: Count, tokens: int) -> Hay:
    """As many of the pieces, from the first, as fit into `tokens`."""
    ends = np.cumsum(count(pieces))
    kept = int(np.searchsorted(ends, tokens, side="right"))
    return Hay(tuple(pieces[:kept]), np.concatenate([[0], ends[:kept]]))
