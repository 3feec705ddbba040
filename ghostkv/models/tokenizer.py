"""Tokenizers without transformers: a model folder's own, and a byte-level one for untrained models."""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from ghostkv.files.errors import ModelError, TextError
from ghostkv.files.io import write_json

END_OF_TEXT = "<|endoftext|>"
BYTE_VOCABULARY = 257


def load_tokenizer(folder: str | Path) -> Tokenizer:
    """The tokenizer of a fetched model; it loads in a tenth of a second, where transformers takes seconds.

    Raises
    ------
    ModelError
        The folder has no readable `tokenizer.json`.
    """
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


def token_ids_of(tokenizer, content: str, tokens: int, text: str) -> list[int]:
    """The first `tokens` token ids of a text.

    Raises
    ------
    TextError
        The text is shorter than that.
    """
    ids = tokenizer(content, truncation=True, max_length=tokens, verbose=False)["input_ids"]
    if len(ids) < tokens:
        raise TextError(
            f"text {text!r} has {len(ids)} tokens with this model's tokenizer, fewer than capture.tokens: "
            f"{tokens}.\n"
            f"  Write: tokens: {len(ids)}   (or less) under capture, or give the text more documents"
        )
    return ids
