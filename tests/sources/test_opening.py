"""The opening of a long text: its first tokens are those of the whole, whatever the tokenizer."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

from ghostkv.models.tokenizer import byte_tokenizer
from ghostkv.sources.opening import opening

CORPUS = [
    "the cat sat on the mat, and the other cat sat on the other mat.",
    "aaaa aaaaaaa abababab bababa 2026 1234567 don't re-read; e.g. this\n\nagain\tand again",
] * 4


def byte_pairs(pre) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre
    # Without a split before it the whole text is one word, as in models that merge across spaces.
    tokenizer.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=400, special_tokens=["<unk>"], show_progress=False)
    )
    return tokenizer


def unigram() -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.NFKC(), pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=80, special_tokens=["<unk>"], unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


MAKERS = {
    "bytes": byte_tokenizer,
    "byte pairs": lambda: byte_pairs(pre_tokenizers.ByteLevel(add_prefix_space=False)),
    "byte pairs of unsplit text": lambda: byte_pairs(None),
    "unigram": unigram,
}


@cache
def encoder(name: str):
    tokenizer = MAKERS[name]()
    return lambda content: np.asarray(tokenizer.encode(content, add_special_tokens=False).ids, np.int64)


WORDS = st.sampled_from(
    [*"abct ,.\n", "the ", "cat", "aaaa", "abab", "  ", "é", "漢字", "2026", "\r\n", "\u2028"]
)


@pytest.mark.parametrize("name", MAKERS)
@given(
    pieces=st.lists(WORDS, min_size=1, max_size=40), times=st.integers(1, 60), tokens=st.integers(1, 200), whole=st.integers(64, 600)
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_the_first_tokens_of_an_opening_are_those_of_the_whole(name, pieces, times, tokens, whole):
    content, encode = "".join(pieces) * times, encoder(name)
    head = opening(content, tokens, encode, whole)
    assert content.startswith(head)
    np.testing.assert_array_equal(encode(head)[:tokens], encode(content)[:tokens])


def test_a_short_text_is_read_whole_and_not_even_encoded():
    assert opening("short", 10**6, None) == "short"


def test_what_is_encoded_follows_what_is_asked_for():
    asked = []

    def encode(content: str) -> np.ndarray:
        asked.append(len(content))
        return np.zeros(len(content) // 4)

    content = "four" * (1 << 20)
    assert len(opening(content, 512, encode)) == 1 << 20
    assert asked == [1 << 20]
    assert len(opening(content, 400_000, encode)) == 1 << 21
    # A text that lacks the tokens is read to its end.
    assert opening(content, 10**7, encode) == content
