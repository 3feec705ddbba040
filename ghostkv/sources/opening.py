"""The opening of a long text: as much of it as anything reads, so that time and memory follow what is asked for."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

# Characters up to which a text is read whole. A tokenizer takes seconds for so many.
WHOLE = 1 << 20
# Tokens beyond those that are read. What follows a place in a text changes the tokens close before it and no others:
# the merges of byte pairs look ahead by a bounded number of tokens (Berglund and van der Merwe 2023, arXiv:2309.08715),
# and other tokenizers split at white space first.
_BEYOND = 64
# How far from its end a cut looks for white space to fall on.
_MARGIN = 4096


def opening(content: str, tokens: int, encode: Callable[[str], np.ndarray], whole: int = WHOLE) -> str:
    """The text itself, or its opening where it has more than `whole` characters.

    The first `tokens` tokens of the opening are those of the whole text.

    Parameters
    ----------
    content : str
    tokens : int
        Tokens that are read.
    encode : callable
        From a text to its token ids.
    """
    size = whole
    while size < len(content):
        cut = max(content.rfind(" ", size - _MARGIN, size), content.rfind("\n", size - _MARGIN, size))
        head = content[: cut if cut > 0 else size]
        if len(encode(head)) >= tokens + _BEYOND:
            return head
        size *= 2
    return content
