"""What the model reads: texts of whole documents, each in one role, no two of which share anything.

A figure measured on a text that also fitted the codec or chose the threshold is worth nothing, so sharing is
refused three times over: by document, by content, and by passages of 32 tokens (modules of one package copy
half of each other's docstrings).
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from ghostkv.files.errors import TextError
from ghostkv.files.io import read_table, stable_seed
from ghostkv.files.seals import damaged
from ghostkv.sources.documents import Document
from ghostkv.sources.opening import WHOLE, opening
from ghostkv.sources.passages import PASSAGE, passages, repeated_share, shared_share

# `trace` is held out like `held_out`: one long text, read query by query.
ROLES = ("codec", "threshold", "held_out", "trace")
TEXT_SCHEMA = pa.schema(
    [
        ("text", pa.string()),  # its name, {domain}_{role}_{number}
        ("domain", pa.string()),
        ("role", pa.string()),
        ("documents", pa.list_(pa.string())),
        ("tokens", pa.int32()),  # of the content; a capture reads the first capture.tokens of them
        ("sha256", pa.string()),  # of the content
        ("source", pa.string()),
        ("license", pa.string()),
        ("content", pa.string()),  # whole documents; of one of more than a million characters its opening
    ]
)
Encode = Callable[[str], np.ndarray]

# Of the smaller text's passages: unrelated prose shares none, sister modules of a package half.
_SHARED_LIMIT = 0.05
# Of a text's passages, those that stood in it before: prose has none, most code up to a quarter.
_REPEAT_LIMIT = 0.30
_JOINT = "\n\n"


@dataclass(frozen=True)
class Text:
    """A text in one role."""

    name: str
    domain: str
    role: str
    documents: tuple[Document, ...]
    tokens: np.ndarray = field(repr=False)  # int [tokens]: the content, encoded
    source: str = ""
    license: str = ""

    @property
    def content(self) -> str:
        return _JOINT.join(document.content for document in self.documents)


@dataclass
class Pool:
    """The documents of a domain, handed out to texts; a document is handed out once."""

    domain: str
    documents: list[Document]
    source: str = ""
    license: str = ""


def make_texts(
    wanted: Mapping[str, Mapping[str, object]],
    pools: Mapping[str, Pool],
    own: Mapping[str, tuple[Document, str]],
    tokens: int,
    encode: Encode,
    seed: int = 0,
) -> list[Text]:
    """Choose the documents of every text, in the order of `wanted`.

    `wanted` is text name -> {domain, role}, as `Config.text_names()` gives it, and `tokens` where it must be longer
    than the `tokens` of all; `own` is text name -> (document, source) for texts of the user's own, all others come
    from the pool of their domain. `encode` is the model's own. Asking for more texts per role leaves the documents of
    earlier ones alone, which follow from the seed.

    Raises TextError where a text is too short, repeats itself, or shares a document or passages with another.
    """
    made: dict[str, Text] = {}
    for name, (document, source) in own.items():
        made[name] = Text(name, *_place(wanted[name]), (document,), encode(document.content), source)
        _refuse_short(made[name], _need(wanted[name], tokens))
        _refuse_repeating(made[name], _need(wanted[name], tokens))
    refuse_overlaps(made.values())
    chooser = _Chooser(encode, seed, [passages(text.tokens) for text in made.values()])

    def turn(name: str) -> tuple[int, int, str]:
        # The first texts of all roles come before any second one and are not changed by it.
        return int(name.rpartition("_")[2]), ROLES.index(_place(wanted[name])[1]), name

    for name in sorted(wanted.keys() - own.keys(), key=turn):
        domain, role = _place(wanted[name])
        pool = pools[domain]
        need = _need(wanted[name], tokens)
        documents = chooser.take(pool, name, need)
        ids = encode(_JOINT.join(document.content for document in documents))
        made[name] = Text(name, domain, role, tuple(documents), ids, pool.source, pool.license)
        _refuse_short(made[name], need)
        chooser.taken.append(passages(ids))
    texts = [made[name] for name in wanted]
    refuse_overlaps(texts)
    return texts


def refuse_overlaps(texts: Iterable[Text]) -> None:
    """Refuse texts that share a document, a copy of one under another name, or passages; the message says which."""
    texts = list(texts)
    windows = {text.name: passages(text.tokens) for text in texts}
    for first, second in itertools.combinations(texts, 2):
        held = {document.sha256: document.id for document in first.documents}
        ids = {document.id for document in first.documents}
        both = f"texts {first.name} ({first.role}) and {second.name} ({second.role})"
        for document in second.documents:
            if document.id in ids or document.sha256 in held:
                twin = held.get(document.sha256, document.id)
                copy = "" if twin == document.id else f", a copy of {twin}"
                raise TextError(
                    f"{both} share the document {document.id}{copy}.\n"
                    "  Give each text documents of its own: what fits a codec or chooses a threshold must "
                    "not be measured."
                )
        shared = shared_share(windows[first.name], windows[second.name])
        if shared > _SHARED_LIMIT:
            raise TextError(
                f"{both} share {shared:.0%} of their passages of {PASSAGE} tokens. "
                f"Accepted: at most {_SHARED_LIMIT:.0%}.\n"
                "  One of their documents holds much of another: replace it."
            )


def text_table(texts: Iterable[Text]) -> pl.DataFrame:
    """The texts as a table with the columns of `TEXT_SCHEMA`."""
    rows = [
        {
            "text": text.name,
            "domain": text.domain,
            "role": text.role,
            "documents": [document.id for document in text.documents],
            "tokens": len(text.tokens),
            "sha256": hashlib.sha256(text.content.encode()).hexdigest(),
            "source": text.source,
            "license": text.license,
            "content": text.content,
        }
        for text in texts
    ]
    return pl.DataFrame(rows)


class _Chooser:
    """Hands out documents in an order that depends on seed and document alone."""

    def __init__(self, encode: Encode, seed: int, taken: list[np.ndarray]):
        self.encode, self.seed, self.taken = encode, seed, taken
        self.used: set[str] = set()
        self._read: dict[tuple[str, int], tuple[Document, np.ndarray]] = {}

    def take(self, pool: Pool, name: str, need: int) -> list[Document]:
        """One document that is long enough, or else as few as reach the length, longest first."""
        order = [document for document in pool.documents if document.id not in self.used]
        order.sort(key=lambda document: stable_seed(self.seed, document.id))
        for document in order:
            # A token is at least a byte, so most of the short ones need no encoding.
            if len(document.content.encode()) >= need and self._fits([document], need):
                return self._hand_out([document], need)
        chosen: list[Document] = []
        for document in sorted(order, key=lambda document: -len(self._encoded(document, need))):
            if self._clean([*chosen, document], need):
                chosen.append(document)
                if self._fits(chosen, need):
                    return self._hand_out(chosen, need)
        found = sum(len(self._encoded(document, need)) for document in chosen)
        given = len(self.used & {document.id for document in pool.documents})
        raise TextError(
            f"text {name} needs {need} tokens, and what domain {pool.domain} has left holds {found} "
            f"({given} of {len(pool.documents)} documents went to other texts; those that repeat themselves "
            "or share passages with another text do not count).\n"
            "  Lower capture.tokens (trace.tokens for the trace), ask for fewer texts under texts.per_role, or write a text of your own: "
            "custom: [{domain: mine, role: held_out, path: /data/mine.txt}]"
        )

    def _hand_out(self, documents: list[Document], need: int) -> list[Document]:
        self.used |= {document.id for document in documents}
        return [self._opened(document, need)[0] for document in documents]

    def _opened(self, document: Document, need: int) -> tuple[Document, np.ndarray]:
        """As much of a document as a text of `need` tokens reads, and its tokens."""
        key = document.id, need if len(document.content) > WHOLE else 0
        if key not in self._read:
            head = replace(document, content=opening(document.content, need, self.encode))
            self._read[key] = head, self.encode(head.content)
        return self._read[key]

    def _encoded(self, document: Document, need: int) -> np.ndarray:
        return self._opened(document, need)[1]

    def _fits(self, documents: list[Document], need: int) -> bool:
        total = sum(len(self._encoded(document, need)) for document in documents)
        return total >= need and self._clean(documents, need)

    def _clean(self, documents: list[Document], need: int) -> bool:
        ids = np.concatenate([self._encoded(document, need) for document in documents])
        windows = passages(ids)
        return repeated_share(ids[:need]) <= _REPEAT_LIMIT and all(
            shared_share(windows, other) <= _SHARED_LIMIT for other in self.taken
        )


def _refuse_short(text: Text, tokens: int) -> None:
    if len(text.tokens) < tokens:
        found, ids = len(text.tokens), ", ".join(document.id for document in text.documents)
        raise TextError(
            f"text {text.name} ({ids}) has {found} tokens, and capture.tokens asks for {tokens}.\n"
            f"  Write: tokens: {found}   (or less, under capture), or give a longer document"
        )


def _refuse_repeating(text: Text, tokens: int) -> None:
    share = repeated_share(text.tokens[:tokens])
    if share > _REPEAT_LIMIT:
        raise TextError(
            f"text {text.name} repeats itself: {share:.0%} of its passages of {PASSAGE} tokens stood in it "
            f"before. Accepted: at most {_REPEAT_LIMIT:.0%}.\n"
            "  Attention on repeated text says nothing about real text: give another document."
        )


def _need(entry: Mapping[str, object], tokens: int) -> int:
    return int(entry.get("tokens") or tokens)


def _place(entry: Mapping[str, object]) -> tuple[str, str]:
    return str(entry["domain"]), str(entry["role"])


def read_texts(texts_table: str | Path) -> pl.DataFrame:
    """All rows of `texts.parquet`; TableError where it was damaged, or a text is not the one whose checksum stands beside it."""
    texts = read_table(texts_table, TEXT_SCHEMA)
    for name, content, sha256 in texts.select("text", "content", "sha256").iter_rows():
        if hashlib.sha256(content.encode()).hexdigest() != sha256:
            raise damaged(
                texts_table, f"the content of {name} does not have the sha256 that is written beside it"
            )
    return texts


def text_row(texts_table: str, text: str) -> dict[str, Any]:
    """One row of `texts.parquet`; raises as `read_texts`, and where it has no such text."""
    texts = read_texts(texts_table)
    rows = texts.filter(pl.col("text") == text)
    if rows.height != 1:
        raise TextError(
            f"{texts_table}: {rows.height} texts named {text!r}. Accepted: {', '.join(texts['text'])}"
        )
    return rows.row(0, named=True)
