"""Variable tracking: RULER's proxy for following a chain of references (section 3.2 of the paper)."""

from __future__ import annotations

import string

import numpy as np

from ghostkv.stages.retrieval.tasks.base import Example, Workshop, fill
from ghostkv.stages.retrieval.tasks.needles import NOISE

_HOPS = 4
_TASK = (
    "Memorize and track the chain(s) of variable assignment hidden in the following text.\n\n{text}\n"
    "Question: Find all variables that are assigned the value {value} in the text above."
)
_START = (
    "Answer: According to the chain(s) of variable assignment in the text above, {count} variables are assigned "
    "the value {value}, they are:"
)


def variable_tracking(workshop: Workshop, rng: np.random.Generator) -> list[Example]:
    """One chain of assignments in noise, after a worked example; all variables of one value are asked for."""
    shown = _chain(rng)
    sample = NOISE * 2
    worked = _prompt(_scatter(shown, [sample] * 2, rng), shown) + " " + " ".join(shown[0]) + "\n\n"
    names, value, lines = _chain(rng)
    question, start = _question((names, value, lines))
    intro = worked + _TASK.partition("{text}")[0]
    left = workshop.left(intro, question, start, *lines)
    hay = fill([NOISE] * (left // workshop.tokens(NOISE) + 1), workshop.count, left)
    text = hay.with_needles([f" {line}" for line in lines], np.sort(rng.uniform(0, 1, len(lines))))
    return [Example(intro + text, question, start, tuple(names), " " + " ".join(names))]


def _chain(rng: np.random.Generator) -> tuple[list[str], str, list[str]]:
    """Names, value and assignments of one chain."""
    letters = np.array(list(string.ascii_uppercase))
    names: list[str] = []
    while len(names) <= _HOPS:
        name = "".join(rng.choice(letters, 5))
        names += [name] if name not in names else []
    value = str(rng.integers(10_000, 100_000))
    lines = [f"VAR {names[0]} = {value}"]
    lines += [f"VAR {new} = VAR {old}" for old, new in zip(names, names[1:], strict=False)]
    return names, value, lines


def _question(chain) -> tuple[str, str]:
    names, value, _ = chain
    return _TASK.partition("{text}")[2].format(value=value), _START.format(count=len(names), value=value)


def _prompt(text: str, chain) -> str:
    return _TASK.partition("{text}")[0] + text + " ".join(_question(chain))


def _scatter(chain, pieces: list[str], rng: np.random.Generator) -> str:
    """The assignments in order, with a piece of noise now and then."""
    parts = [f" {line}." for line in chain[2]]
    for piece in pieces:
        parts.insert(int(rng.integers(0, len(parts) + 1)), piece)
    return "".join(parts).strip()
