"""Questions on documents: RULER's task over SQuAD and HotpotQA (section 3.4 of the paper)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ghostkv.stages.retrieval.tasks.base import Example, Workshop, fill

_TASK = "Answer the question based on the given documents. Only give me the answer and do not output any other words."


@dataclass(frozen=True)
class Asked:
    """A question, its answers (any of which will do), and the documents that hold them."""

    question: str
    answers: tuple[str, ...]
    documents: tuple[str, ...]


def squad_questions(raw: dict[str, Any]) -> list[Asked]:
    """The answerable questions of a SQuAD file, each with its paragraph."""
    return [
        Asked(
            entry["question"].strip(),
            tuple(dict.fromkeys(answer["text"] for answer in entry["answers"])),
            (paragraph["context"].strip(),),
        )
        for article in raw["data"]
        for paragraph in article["paragraphs"]
        for entry in paragraph["qas"]
        if entry["answers"] and not entry.get("is_impossible")
    ]


def hotpot_questions(raw: Iterable[dict[str, Any]]) -> list[Asked]:
    """The questions of a HotpotQA file, each with its supporting paragraphs."""
    found = []
    for entry in raw:
        needed = {title for title, _ in entry["supporting_facts"]}
        documents = tuple(
            f"{title}\n{''.join(lines)}" for title, lines in entry["context"] if title in needed
        )
        found.append(Asked(entry["question"].strip(), (entry["answer"],), documents))
    return found


def question_answering(workshop: Workshop, rng: np.random.Generator, source: str = "squad") -> list[Example]:
    """A question, its own documents, and as many foreign ones as fit, in random order."""
    asked = workshop.questions[source]
    turn = rng.permutation(len(asked))
    chosen = asked[turn[0]]
    intro = f"{_TASK}\n\nThe following are given documents.\n\n"
    question = f"\n\n{_TASK}\n\nQuestion: {chosen.question}"
    left = workshop.left(intro, question, "Answer:", *map(_shown, chosen.documents))
    others: dict[str, None] = {}
    for i in turn[1 : 2 + left // 20]:
        # A paragraph that holds the answer by chance would make the question easier.
        others |= {
            text: None
            for text in asked[i].documents
            if text not in chosen.documents
            and not any(answer.lower() in text.lower() for answer in chosen.answers)
        }
    hay = fill([_shown(text) for text in others], workshop.count, left)
    documents = [*chosen.documents, *list(others)[: len(hay.pieces)]]
    rng.shuffle(documents)
    text = "".join(_shown(document, i) for i, document in enumerate(documents, 1)).strip()
    return [Example(intro + text, question, "Answer:", chosen.answers, f" {chosen.answers[0]}")]


def _shown(document: str, number: int = 100) -> str:
    return f"\n\nDocument {number}:\n{document}"
