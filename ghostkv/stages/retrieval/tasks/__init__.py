"""RULER's tasks by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from ghostkv.stages.retrieval.tasks.needles import multi_key, multi_query, multi_value, single
from ghostkv.stages.retrieval.tasks.questions import question_answering
from ghostkv.stages.retrieval.tasks.tracing import variable_tracking
from ghostkv.stages.retrieval.tasks.words import common_words, frequent_words

__all__ = ["TASKS", "Task"]


@dataclass(frozen=True)
class Task:
    """How a task is built and scored."""

    # `build(workshop, rng)` or, with depths, `build(workshop, rng, depths)`: the examples of one context.
    build: Callable
    about: str
    rule: str = "all"  # of `ghostkv.stages.retrieval.tasks.scoring`
    tokens: int = 128  # tokens that an answer may take, RULER's own
    per_context: int = 1  # examples of one context; 0 for one a depth
    source: str = ""  # what it is made of besides words: essays, squad, hotpotqa or nothing


TASKS = {
    "niah_single_1": Task(partial(single, hay="noise"), "a number in noise", per_context=0),
    "niah_single_2": Task(single, "a number in essays", per_context=0, source="essays"),
    "niah_single_3": Task(partial(single, value="uuid"), "a UUID in essays", per_context=0, source="essays"),
    "niah_multikey_1": Task(multi_key, "one of four keys in essays", per_context=4, source="essays"),
    "niah_multikey_2": Task(partial(multi_key, hay="needles"), "one key of many needles", per_context=4),
    "niah_multikey_3": Task(partial(multi_key, hay="needles", key="uuid"), "one UUID of many", per_context=4),
    "niah_multivalue": Task(multi_value, "four values of one key", source="essays"),
    "niah_multiquery": Task(multi_query, "four keys at once", source="essays"),
    "vt": Task(variable_tracking, "a chain of five variables", tokens=30),
    "cwe": Task(common_words, "the ten most common words", tokens=120, source="essays"),
    "fwe": Task(frequent_words, "the three most frequent coded words", tokens=50),
    "qa_squad": Task(question_answering, "SQuAD questions", "part", 32, source="squad"),
    "qa_hotpotqa": Task(
        partial(question_answering, source="hotpotqa"), "HotpotQA questions", "part", 32, source="hotpotqa"
    ),
}
