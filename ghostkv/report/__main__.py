"""`python -m ghostkv.report`: bring figure and figures of a finished report into the README.

Nothing in the README is typed by hand that a run can say: the answer and the table, each between two markers, are
written from `headline.json`, and the picture is copied from the report.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path

from ghostkv.files.errors import GhostKVError, TableError
from ghostkv.files.io import write_text
from ghostkv.report.claims import ROWS
from ghostkv.report.numbers import FORMATS
from ghostkv.report.sentences import answers, between

BEGIN, END = "<!-- results: written by `python -m ghostkv.report` -->", "<!-- end of results -->"
ANSWER_BEGIN, ANSWER_END = "<!-- answer: written by `python -m ghostkv.report` -->", "<!-- end of answer -->"
FIGURE = "frontier_by_codec.svg"


def results_block(figures: Mapping[str, Mapping]) -> str:
    """The README's table of results, markers included."""
    lines = [BEGIN, "", "| Measured | | 95 % | n | texts |", "|:--|--:|--:|--:|--:|"]
    for label, name, kind in ROWS:
        if name in figures:
            figure = figures[name]
            texts = "" if figure["texts"] is None else figure["texts"]
            lines.append(
                f"| {label} | {FORMATS[kind](figure['value'])} | {between(figure, kind)} | {figure['n']} | {texts} |"
            )
    return "\n".join([*lines, "", END])


def answer_block(figures: Mapping[str, Mapping]) -> str:
    """The README's first sentences, markers included."""
    lines = [ANSWER_BEGIN, ""]
    lines += [f"- {said}" for said in answers(figures)]
    return "\n".join([*lines, "", ANSWER_END])


def renew(readme: str, figures: Mapping[str, Mapping]) -> str:
    """The README's text with its blocks written anew.

    Raises
    ------
    TableError
        The markers of a block are not there.
    """
    for begin, end, block in (
        (ANSWER_BEGIN, ANSWER_END, answer_block(figures)),
        (BEGIN, END, results_block(figures)),
    ):
        before, begun, rest = readme.partition(begin)
        _, ended, after = rest.partition(end)
        if not begun or not ended:
            raise TableError(
                f"README: no place for the results. Write these two lines into it:\n  {begin}\n  {end}"
            )
        readme = before + block + after
    return readme


def main(arguments: list[str] | None = None) -> None:
    """Renew README.md and docs/figures from a report."""
    parser = argparse.ArgumentParser(prog="python -m ghostkv.report", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--report", type=Path, default=Path("results/report"), help="folder of a finished report"
    )
    parser.add_argument("--readme", type=Path, default=Path("README.md"))
    parser.add_argument("--figures", type=Path, default=Path("docs/figures"))
    chosen = parser.parse_args(arguments)
    try:
        figures = json.loads((chosen.report / "headline.json").read_text())
        picture = (chosen.report / "figures" / FIGURE).read_text()
    except OSError as error:
        parser.error(f"no finished report in {chosen.report} ({error}); run `snakemake report` first")
    try:
        text = renew(chosen.readme.read_text(), figures)
    except GhostKVError as error:
        parser.error(str(error))
    write_text(text, chosen.readme)
    write_text(picture, chosen.figures / FIGURE)


if __name__ == "__main__":
    main()
