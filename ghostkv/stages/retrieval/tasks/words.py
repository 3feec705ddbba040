"""Common and frequent words: RULER's proxies for gathering what is spread over a text (section 3.3)."""

from __future__ import annotations

import string

import numpy as np
from scipy.special import zeta

from ghostkv.stages.retrieval.tasks.base import Example, Workshop, fill

_COMMON, _OFTEN, _SELDOM = 10, 30, 3
_ALPHA, _ASKED = 2.0, 3
_CWE = (
    "Below is a numbered list of words. In these words, some appear more often than others. Memorize the ones that "
    "appear most often.\n"
)
_CWE_ASK = "\nQuestion: What are the 10 most common words in the above list?"
_CWE_START = "Answer: The top 10 words that appear most often in the list are:"
_FWE = (
    "Read the following coded text and track the frequency of each coded word. Find the three most frequently "
    "appeared coded words. "
)
_FWE_ASK = (
    "\nQuestion: Do not provide any explanation. Please ignore the dots '....'. What are the three most frequently "
    "appeared words in the above coded text?"
)
_FWE_START = "Answer: According to the coded text above, the three most frequently appeared words are:"


def common_words(workshop: Workshop, rng: np.random.Generator) -> list[Example]:
    """Ten words of a list stand in it ten times as often as the others, after a worked example.

    The paper repeats them 30 and 3 times. A list too short for 30 keeps the ratio of ten and repeats less.
    """
    pool = _plain_words(workshop.prose)
    rng.shuffle(pool)
    worked_words, pool = pool[:20], pool[20:]
    shown = [*worked_words[:_COMMON] * 3, *worked_words[_COMMON:]]
    rng.shuffle(shown)
    worked = _CWE + _numbered(shown) + f"{_CWE_ASK} {_CWE_START} {_listed(worked_words[:_COMMON])}\n\n"
    left = workshop.left(worked, _CWE, _CWE_ASK, _CWE_START)
    # A number, a dot and a word of the longest kind.
    items = int(
        left
        / (workshop.count([f" {i}. {word}" for i, word in zip(range(100, 200), pool, strict=False)]).mean())
    )
    often = min(_OFTEN, max(items // (2 * _COMMON), 2))
    seldom = max(often * _SELDOM // _OFTEN, 1)
    common, rest = pool[:_COMMON], pool[_COMMON : _COMMON + max(items - often * _COMMON, 0) // seldom]
    listing = common * often + rest * seldom
    rng.shuffle(listing)
    while listing and workshop.tokens(_numbered(listing)) > left:
        # Only the rare words may go, or the common ones would not be common.
        rest = rest[: -max(len(rest) // 20, 1)]
        listing = common * often + rest * seldom
        rng.shuffle(listing)
        if not rest:
            break
    context = worked + _CWE + _numbered(listing)
    return [Example(context, _CWE_ASK, _CWE_START, tuple(common), f" {_listed(common)}")]


def frequent_words(workshop: Workshop, rng: np.random.Generator) -> list[Example]:
    """Coded words with frequencies of a zeta law; dots are the most frequent, the next three are asked for."""
    left = workshop.left(_FWE, _FWE_ASK, _FWE_START)
    letters = np.array(list(string.ascii_lowercase))
    total = left
    while True:
        counts = [int(total * rank**-_ALPHA / zeta(_ALPHA)) for rank in range(1, total + 1)]
        counts = [count for count in counts if count > 0]
        codes = list(dict.fromkeys("".join(letter) for letter in rng.choice(letters, (2 * len(counts), 6))))
        codes = ["....", *codes[: len(counts) - 1]]
        text = [code for code, count in zip(codes, counts, strict=True) for _ in range(count)]
        rng.shuffle(text)
        hay = fill([f" {code}" for code in text], workshop.count, left)
        if len(hay.pieces) == len(text):
            break
        total = int(total * 0.97)
    asked = tuple(codes[1 : 1 + _ASKED])
    draft = " " + ", ".join(asked[:-1]) + f", and {asked[-1]}."
    return [Example(_FWE + "".join(hay.pieces).strip(), _FWE_ASK, _FWE_START, asked, draft)]


def _plain_words(prose: tuple[str, ...]) -> list[str]:
    """Lower-case words of four to nine letters, sorted."""
    found = {word for sentence in prose for word in sentence.replace(".", " ").replace(",", " ").split()}
    return sorted(
        word for word in found if word.isascii() and word.isalpha() and word.islower() and 4 <= len(word) <= 9
    )


def _numbered(words: list[str]) -> str:
    return " ".join(f"{i}. {word}" for i, word in enumerate(words, 1))


def _listed(words: list[str]) -> str:
    return " ".join(f"{i}. {word}" for i, word in enumerate(words, 1))
