"""The page that the survey writes, and reading it back."""

from __future__ import annotations

import re
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[2] / "docs/architectures.md"
_NUMBER = "{:.0e}".format


def page(rows: list[dict[str, Any]]) -> str:
    """docs/architectures.md."""
    counts = Counter(row["outcome"] for row in rows)
    lines = [
        "# Architectures",
        "",
        f"Written by `make survey` with transformers {version('transformers')} and torch {version('torch')}. For each model type "
        "that transformers has a causal",
        "language model for, a tiny one with random weights goes through the lab: fetch from a local folder, capture with its proof, "
        "decoding with",
        "nothing eliminated, `generate()`. *Works* means that it says what the model says by itself. *Refused* means that one message "
        "says why, before",
        "anything is measured. *Not built* means that transformers could not build or run the tiny model by itself.",
        "",
        f"{len(rows)} types: "
        + ", ".join(f"{count} {outcome}" for outcome, count in counts.most_common())
        + ".",
        "",
        "*Blocks* and *steps* are the largest differences of a logit to the model's own attention, many tokens at once and one by "
        "one, over the",
        "largest logit. They are of random weights: what a type works with depends on its code, and a config may still choose what is "
        "refused.",
        "",
        "| architecture | | layers, or why | blocks | steps |",
        "|:--|:--|:--|--:|--:|",
    ]
    for row in sorted(rows, key=lambda row: row["architecture"]):
        numbers = ["" if row[way] is None else _NUMBER(row[way]) for way in ("blocks", "steps")]
        lines.append(
            " | ".join(["| " + row["architecture"], row["outcome"], _short(row["why"]), *numbers]) + " |"
        )
    return "\n".join([*lines, ""])


def read_page() -> tuple[str, dict[str, str]]:
    """The version of transformers that the page was written with, and the outcome of each architecture."""
    text = PAGE.read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([\w.-]+) \| ([a-z ]+|[A-Z]+) \|", text, re.MULTILINE)
    return re.search(r"with transformers (\S+)", text)[1], {
        kind: outcome for kind, outcome in rows if kind != "architecture"
    }


def _short(why: str) -> str:
    """The first sentence, in one line that a table can hold."""
    line = " ".join(why.split(" Accepted:")[0].split()).rstrip(".")
    return (line if len(line) <= 220 else line[:220].rsplit(" ", 1)[0] + " ...").replace("|", "\\|")
