"""Needles in a haystack: RULER's retrieval tasks (section 3.1 of the paper), and the grid of depths."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

import numpy as np

from ghostkv.stages.retrieval.tasks.base import Example, Hay, Workshop, fill
from ghostkv.stages.retrieval.tasks.vocabulary import ADJECTIVES, NOUNS

NOISE = " The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."
_MANY = 4  # keys, values or queries of the tasks that have several


def single(
    workshop: Workshop, rng: np.random.Generator, depths, hay="essays", value="number"
) -> list[Example]:
    """One needle, asked for. One example a depth, each with a key and a value of its own in the same haystack."""
    found = []
    for depth in depths:
        key, secret = words(rng, 1)[0], secrets(rng, value, 1)[0]
        question, start = ask(value, [key])
        text = _stack(workshop, hay, [needle(value, key, secret)], value, question, start, rng)
        context = instruct(value) + text.with_needles([needle(value, key, secret)], [depth])
        found.append(Example(context, question, start, (secret,), f" {secret}.", float(depth)))
    return found


def multi_key(workshop: Workshop, rng: np.random.Generator, hay="essays", key="words") -> list[Example]:
    """Several needles with keys of their own; each is asked for in turn, the others distract.

    With the haystack `needles` all of the text is needles, and four of them are asked for.
    """
    value = "uuid" if key == "uuid" else "number"
    if hay == "needles":
        return _needles_alone(workshop, rng, value, key)
    keys, found = words(rng, _MANY), secrets(rng, value, _MANY)
    needles = [needle(value, *pair) for pair in zip(keys, found, strict=True)]
    question, start = ask(value, [max(keys, key=len)])
    text = _stack(workshop, hay, needles, value, question, start, rng)
    depths = np.sort(rng.uniform(0, 1, _MANY))
    context = instruct(value) + text.with_needles(needles, depths)
    return [
        Example(context, *ask(value, [name]), (secret,), f" {secret}.", float(depth))
        for name, secret, depth in zip(keys, found, depths, strict=True)
    ]


def multi_value(workshop: Workshop, rng: np.random.Generator) -> list[Example]:
    """Several needles with the same key; all values are asked for."""
    name, found = words(rng, 1)[0], secrets(rng, "number", _MANY)
    return [_several(workshop, rng, [name] * _MANY, found, [name])]


def multi_query(workshop: Workshop, rng: np.random.Generator) -> list[Example]:
    """Several needles with keys of their own; all are asked for at once."""
    names = words(rng, _MANY)
    return [_several(workshop, rng, names, secrets(rng, "number", _MANY), names)]


def needle(value: str, key: str, secret: str) -> str:
    """The sentence that is hidden."""
    return f" One of the special magic {value}s for {key} is: {secret}."


def instruct(value: str) -> str:
    """What stands before the text."""
    return (
        f"Some special magic {value}s are hidden within the following text. Make sure to memorize it. "
        f"I will quiz you about the {value}s afterwards.\n"
    )


def ask(value: str, keys: Sequence[str], many: bool = False) -> tuple[str, str]:
    """Question and beginning of the answer."""
    who = keys[0] if len(keys) == 1 else ", ".join(keys[:-1]) + f", and {keys[-1]}"
    if many or len(keys) > 1:
        what, verb = f"What are all the special magic {value}s", "are"
        start = f"The special magic {value}s for {who} mentioned in the provided text {verb}"
    else:
        what = f"What is the special magic {value}"
        start = f"The special magic {value} for {who} mentioned in the provided text is"
    return f"\n{what} for {who} mentioned in the provided text?", start


def words(rng: np.random.Generator, count: int) -> list[str]:
    """Keys of an adjective and a noun, all different."""
    chosen = rng.choice(len(ADJECTIVES) * len(NOUNS), count, replace=False)
    return [f"{ADJECTIVES[i // len(NOUNS)]}-{NOUNS[i % len(NOUNS)]}" for i in chosen]


def secrets(rng: np.random.Generator, kind: str, count: int) -> list[str]:
    """Values, all different: numbers of seven digits, or UUIDs."""
    if kind == "uuid":
        return [str(uuid.UUID(bytes=rng.bytes(16), version=4)) for _ in range(count)]
    return [str(number) for number in rng.choice(9_000_000, count, replace=False) + 1_000_000]


def _several(workshop, rng, keys, found, asked) -> Example:
    needles = [needle("number", *pair) for pair in zip(keys, found, strict=True)]
    question, start = ask("number", asked, many=True)
    text = _stack(workshop, "essays", needles, "number", question, start, rng)
    context = instruct("number") + text.with_needles(needles, np.sort(rng.uniform(0, 1, len(needles))))
    draft = " " + ", ".join(found[:-1]) + f", and {found[-1]}."
    return Example(context, question, start, tuple(found), draft)


def _needles_alone(workshop, rng, value, key) -> list[Example]:
    start_room = workshop.left(instruct(value), *ask(value, ["zealous-mountain"]))
    one = workshop.tokens(needle(value, words(rng, 1)[0], secrets(rng, value, 1)[0]))
    count = max(start_room // max(one, 1), _MANY)
    keys = secrets(rng, "uuid", count) if key == "uuid" else words(rng, min(count, 2000))
    found = secrets(rng, value, len(keys))
    lines = [needle(value, *pair) for pair in zip(keys, found, strict=True)]
    question, start = ask(value, [max(keys, key=len)])
    hay = fill(lines, workshop.count, workshop.left(instruct(value), question, start))
    context = instruct(value) + "".join(hay.pieces).strip()
    chosen = np.sort(rng.choice(len(hay.pieces), min(_MANY, len(hay.pieces)), replace=False))
    return [
        Example(
            context,
            *ask(value, [keys[i]]),
            (found[i],),
            f" {found[i]}.",
            float(hay.before[i] / hay.before[-1]),
        )
        for i in chosen
    ]


def _stack(workshop: Workshop, hay: str, needles, value, question, start, rng) -> Hay:
    """The haystack that fits beside needles, instructions and question."""
    left = workshop.left(instruct(value), *needles, question, start)
    noise = hay == "noise"
    pieces = [NOISE] * (left // workshop.tokens(NOISE) + 1) if noise else workshop.prose
    return fill(pieces, workshop.count, left)
