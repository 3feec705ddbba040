"""Sentences with figures of `headline.json` in them: those that a run ends with, and those that the README begins with."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

from ghostkv.report.numbers import FORMATS

# The first that a report has all figures of is what a run ends with.
_CLOSING = (
    "Proved for every query: no key of the largest scores is lost while {certificates.topk.elimination:percent} of the cold "
    "keys are never read; a step reads {certificates.topk.bytes_ratio_gqa:percent} of the bytes.",
    "Calibrated to lose at most 1 % of the keys of largest score, {frontier.elimination_at_fer_1pct:percent} of the cold keys "
    "are never read, and a step reads {frontier.bytes_ratio_gqa_at_fer_1pct:percent} of the bytes.",
)


def filled(sentence: str, figures: Mapping[str, Mapping]) -> str | None:
    """A sentence with its `{name:format}` replaced by figures; None where one is not there, or has no value."""
    names = re.findall(r"\{([\w.]+):(\w+)\}", sentence)
    if any(figures.get(name, {}).get("value") is None for name, _ in names):
        return None
    for name, kind in names:
        sentence = sentence.replace(f"{{{name}:{kind}}}", FORMATS[kind](figures[name]["value"]))
    return sentence


def closing(made: str) -> str:
    """What a run says last: of a text all of it; of the report in a folder its answer in a sentence, if any, and its page."""
    if made.endswith(".txt"):
        return Path(made).read_text(encoding="utf-8")
    figures = json.loads(Path(made, "headline.json").read_text(encoding="utf-8"))
    said = next(filter(None, (filled(sentence, figures) for sentence in _CLOSING)), None)
    return "\n".join(filter(None, (said, f"{made}/report.html")))
