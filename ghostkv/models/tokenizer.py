"""Text to token ids: a model folder's own tokenizer, and a byte-level one for untrained models."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, tzinfo
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING
from unittest import mock

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from ghostkv.files.errors import ModelError, TextError
from ghostkv.files.io import write_json
from ghostkv.models.manifest import verify
from ghostkv.sources.opening import opening

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Stands for the message while the chat template is written; no template and no text holds it.
_MESSAGE = "GHOSTKV-MESSAGE"
END_OF_TEXT = "<|endoftext|>"
BYTE_VOCABULARY = 257
# Characters up to which a text is encoded whole for its first tokens.
_NEAR = 1 << 16


class _Calendar(datetime):
    """The date that templates print which print one: a run is the same on another day."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> _Calendar:
        return cls(2024, 7, 26, tzinfo=tz)


@dataclass(frozen=True)
class PromptForm:
    """What stands around a message to the model."""

    start: tuple[int, ...]  # token ids before all else
    before: str
    after: str


class ModelTokenizer:
    """The one place where text becomes token ids, for captures, quality, retrieval and every other stage alike.

    Attributes
    ----------
    start : tuple of int
        Ids that the model's own tokenizer puts before a text, such as BOS. Ids that it would put after one, such as EOS,
        are left out: what the lab reads goes on.
    """

    def __init__(self, folder: Path, tokenizer: Tokenizer):
        self._folder, self._tokenizer = folder, tokenizer
        whole = tokenizer.encode("a")
        self.start = tuple(
            token
            for token, _ in itertools.takewhile(
                lambda pair: pair[1], zip(whole.ids, whole.special_tokens_mask, strict=True)
            )
        )

    def encode(self, text: str) -> list[int]:
        """Ids of a text or a piece of one, without `start`."""
        # The fast one leaves out where in the text each token lies, a third of time and memory.
        return self._tokenizer.encode_batch_fast([text], add_special_tokens=False)[0].ids

    def count(self, texts: Sequence[str]) -> np.ndarray:
        """Ids of each text, int64, without `start`."""
        found = self._tokenizer.encode_batch(list(texts), add_special_tokens=False)
        return np.array([len(one.ids) for one in found], np.int64)

    def first(self, content: str, tokens: int) -> list[int]:
        """The first ids of a text as the model reads it, `start` among them; fewer where the text is shorter."""
        return [*self.start, *self.encode(opening(content, tokens, self.encode, _NEAR))][:tokens]

    def decode(self, ids: Sequence[int], special: bool = True) -> str:
        """Ids as text; `special` tokens are written out or left out."""
        return self._tokenizer.decode([int(one) for one in ids], skip_special_tokens=not special)

    def form(self) -> PromptForm:
        """The form of a prompt: the chat template's, whose own BOS counts, or `start` and the bare message.

        Raises
        ------
        ModelError
            The chat template fails, or does not write the message once and as it is.
        """
        if not getattr(self._whole, "chat_template", None):
            return PromptForm(self.start, "", "\n")
        from transformers.utils import chat_template_utils as templates

        message = [{"role": "user", "content": _MESSAGE}]
        try:
            with mock.patch.object(templates, "datetime", _Calendar):
                written = self._whole.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
        except Exception as error:  # Jinja's many, and those that a template raises itself
            raise ModelError(self._no_form(f"cannot be written ({type(error).__name__}: {error})")) from error
        if written.count(_MESSAGE) != 1:
            raise ModelError(self._no_form(f"writes a user's message {written.count(_MESSAGE)} times"))
        return PromptForm((), *written.split(_MESSAGE))

    @property
    def ends(self) -> set[int]:
        """Ids after which the model has nothing more to say."""
        return {self._whole.eos_token_id} - {None}

    @cached_property
    def _whole(self) -> PreTrainedTokenizerBase:
        """The tokenizer as transformers has it: slow to import, and needed for templates alone."""
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(self._folder, local_files_only=True, trust_remote_code=False)

    def _no_form(self, what: str) -> str:
        return (
            f"{self._folder}: the chat template {what}. Accepted: one that writes a single user's message as it is.\n"
            "  Correct chat_template in a copy of the model and write: custom: {source: path, path: copy}, or leave out "
            "retrieval"
        )


def load_tokenizer(folder: str | Path) -> ModelTokenizer:
    """The tokenizer of a fetched model; it loads in a tenth of a second, where transformers takes seconds.

    Raises
    ------
    ModelError
        The folder has no readable `tokenizer.json`, or a file is not as it was fetched.
    """
    verify(folder, weights=False)
    return ModelTokenizer(Path(folder), read_tokenizer(folder))


def tokenizer_of(tokenizer: PreTrainedTokenizerBase | ModelTokenizer) -> ModelTokenizer:
    """A tokenizer of transformers as the lab has it. Raises ModelError for a slow one, which the library cannot read."""
    if isinstance(tokenizer, ModelTokenizer):
        return tokenizer
    fast = getattr(tokenizer, "backend_tokenizer", None)
    if fast is None:
        raise ModelError(
            f"{type(tokenizer).__name__} is no fast tokenizer. Accepted: those that the tokenizers library reads.\n"
            "  Write: AutoTokenizer.from_pretrained(..., use_fast=True)"
        )
    own = Tokenizer.from_str(fast.to_str())
    own.no_truncation()
    own.no_padding()
    return ModelTokenizer(Path(tokenizer.name_or_path or "."), own)


def read_tokenizer(folder: str | Path) -> Tokenizer:
    """A folder's `tokenizer.json` as the library has it. Raises ModelError where it is not readable."""
    path = Path(folder) / "tokenizer.json"
    try:
        tokenizer = Tokenizer.from_str(path.read_text(encoding="utf-8"))
    except Exception as error:  # tokenizers raises bare Exception for malformed files
        raise ModelError(
            f"{path}: not a readable tokenizer ({error}).\n"
            f"  Delete {Path(folder)} and rerun the rule that fetches the model."
        ) from error
    # Some models ship with a cut at 512 tokens in the file itself.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def byte_tokenizer() -> Tokenizer:
    """One token per UTF-8 byte, and one for the end of a text: 257 tokens, no training."""
    vocabulary = {symbol: index for index, symbol in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([END_OF_TEXT])
    return tokenizer


def save_byte_tokenizer(folder: str | Path, max_context: int) -> None:
    """Write the byte tokenizer so that both `load_tokenizer` and `AutoTokenizer` read it from `folder`."""
    folder = Path(folder)
    described = json.loads(byte_tokenizer().to_str())
    write_json(described, folder / "tokenizer.json")
    write_json(
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": END_OF_TEXT,
            "eos_token": END_OF_TEXT,
            "clean_up_tokenization_spaces": False,
            "model_max_length": max_context,
        },
        folder / "tokenizer_config.json",
    )


def token_ids_of(tokenizer: ModelTokenizer, content: str, tokens: int, text: str) -> list[int]:
    """The first `tokens` token ids of a text.

    Raises
    ------
    TextError
        The text is shorter than that.
    """
    ids = tokenizer.first(content, tokens)
    if len(ids) < tokens:
        raise TextError(
            f"text {text!r} has {len(ids)} tokens with this model's tokenizer, fewer than capture.tokens: "
            f"{tokens}.\n"
            f"  Write: tokens: {len(ids)}   (or less) under capture, or give the text more documents"
        )
    return ids
