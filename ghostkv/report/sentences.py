"""Sentences with figures of `headline.json` in them: those that a run ends with, and those that report and README begin with."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ghostkv.report.numbers import FORMATS

# What report and README say first. `{name:format}` is a figure of headline.json; a sentence that lacks one is left out.
ANSWER = (
    "**Proved for every query:** none of the 32 keys of largest score is lost "
    "([the proof](docs/certificates.md#3-top-k-fer--0)), while {certificates.topk.elimination:percent} of the cold keys "
    "are never read and all that is read, records included, is {certificates.topk.bytes_ratio_gqa:percent} of the full "
    "cache's bytes; the proof says nothing about the softmax mass of the keys that are not read.",
    "**What the model does under it:** decoding with one threshold for all its heads, the model reads "
    "{quality.at_030.bytes_ratio_gqa:percent} of the bytes, and its next token's distribution is {quality.at_030.kl:tiny} nats "
    "from its own (KL). At the same bytes the strongest rival, {quality.best_rival:method}, is "
    "{quality.best_rival_kl_ratio:factor} as far.",
    "**Beside a quantised cache:** the best one, read whole, takes {quality.quantised.bytes_ratio_gqa:percent} of the bytes and "
    "is {quality.quantised.kl:tiny} nats away; records over a quantised cache read {quality.stacked.bytes_ratio_gqa:percent}, "
    "{quality.stacked.kl:tiny} nats away.",
    "**True on average:** thresholds calibrated to lose at most 1 % of those 32 keys leave "
    "{frontier.elimination_at_fer_1pct:percent} unread and read {frontier.bytes_ratio_gqa_at_fer_1pct:percent} of the "
    "bytes, but what they leave unread holds {frontier.dropped_mass_at_fer_1pct:percent} of the softmax mass.",
    "**The price of losing little mass:** to prove for every query that at most 5 % of it is lost, a step reads "
    "{certificates.mass_5pct.group.bytes_ratio_gqa:percent} of the bytes, and thresholds calibrated for 1 % on average read "
    "{frontier.bytes_ratio_gqa_at_dropped_mass_1pct:percent}.",
)
# The first that a report has all figures of is what a run ends with.
_CLOSING = (
    "Proved for every query: no key of the largest scores is lost while {certificates.topk.elimination:percent} of the cold "
    "keys are never read; a step reads {certificates.topk.bytes_ratio_gqa:percent} of the bytes.",
    "Calibrated to lose at most 1 % of the keys of largest score, {frontier.elimination_at_fer_1pct:percent} of the cold keys "
    "are never read, and a step reads {frontier.bytes_ratio_gqa_at_fer_1pct:percent} of the bytes.",
)


def filled(sentence: str, figures: Mapping[str, Mapping], ends: bool = False) -> str | None:
    """A sentence with its `{name:format}` replaced by figures, with the `ends` of their intervals in brackets where they have
    any; None where a figure is not there, or has no value."""
    names = re.findall(r"\{([\w.]+):(\w+)\}", sentence)
    if any(figures.get(name, {}).get("value") is None for name, _ in names):
        return None
    for name, kind in names:
        shown = between(figures[name], kind) if ends else ""
        said = " ".join(filter(None, (_formats(kind)(figures[name]["value"]), shown)))
        sentence = sentence.replace(f"{{{name}:{kind}}}", said)
    return sentence


def _formats(kind: str) -> Callable[[Any], str]:
    if kind != "method":
        return FORMATS[kind]
    # Only here: it brings Polars, which what a run ends with has no use for.
    from ghostkv.report.names import family

    return family


def between(figure: Mapping, kind: str) -> str:
    """The 95 % interval of a figure of headline.json in brackets; nothing where it has none."""
    if figure.get("low") is None:
        return ""
    low, high = (FORMATS[kind](figure[end]) for end in ("low", "high"))
    # The unit once: [98.2, 99.1 %].
    number, unit = re.fullmatch(r"(.*?)(x| %)?", low).groups()
    return f"[{number if unit else low}, {high}]"


def answers(figures: Mapping[str, Mapping]) -> list[str]:
    """The answer in Markdown: its sentences that a report has all figures of."""
    return [said for said in (filled(sentence, figures, True) for sentence in ANSWER) if said]


def closing(made: str) -> str:
    """What a run says last: of a text all of it, of a page where it is; of the report in a folder its answer in a sentence, if
    any, and its page."""
    if made.endswith(".html"):
        return made
    if made.endswith(".txt"):
        return Path(made).read_text(encoding="utf-8")
    figures = json.loads(Path(made, "headline.json").read_text(encoding="utf-8"))
    said = next(filter(None, (filled(sentence, figures) for sentence in _CLOSING)), None)
    return "\n".join(filter(None, (said, f"{made}/report.html")))
