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
from ghostkv.report.numbers import FORMATS
from ghostkv.report.sentences import answers

BEGIN, END = "<!-- results: written by `python -m ghostkv.report` -->", "<!-- end of results -->"
ANSWER_BEGIN, ANSWER_END = "<!-- answer: written by `python -m ghostkv.report` -->", "<!-- end of answer -->"
FIGURE = "frontier_by_codec.svg"
_MASS = "Elimination with thresholds calibrated for dropped mass ≤ 1 %"
_CERTIFIED = "Certificate for dropped mass ≤ 5 % of every query: elimination"
_LAYER = "Attention of one layer on 2 CPU threads, torch's time over it: shape of Llama-3.1-8B, 32,768 generated keys"
_NEEDLE = "retrieval.single_needle_at_025."
ROWS = (
    ("Certificate for the top 32, FER = 0 for every query: elimination", "certificates.topk.elimination", "percent"),
    ("the bytes ratio there, per head", "certificates.topk.bytes_ratio", "ratio"),
    ("the bytes ratio there, GQA-true", "certificates.topk.bytes_ratio_gqa", "ratio"),
    (_CERTIFIED, "certificates.mass_5pct.elimination", "percent"),
    ("the bytes ratio there, GQA-true", "certificates.mass_5pct.bytes_ratio_gqa", "ratio"),
    ("the same where the heads of a group decide together", "certificates.mass_5pct.group.bytes_ratio_gqa", "ratio"),
    ("and where that may fail with probability 1e-12 a query", "certificates.randomised.mass_5pct.bytes_ratio_gqa", "ratio"),
    ("Checks of certificates against exact attention", "certificates.checks", "integer"),
    ("violations among them", "certificates.violations", "integer"),
    ("Heads with a safe point on held-out text", "frontier.safe_head_share", "percent"),
    ("Elimination with thresholds calibrated for FER ≤ 1 %", "frontier.elimination_at_fer_1pct", "percent"),
    ("the FER measured there", "frontier.fer_at_fer_1pct", "percent"),
    ("the softmax mass dropped there", "frontier.dropped_mass_at_fer_1pct", "percent"),
    ("the bytes ratio there, per head", "frontier.bytes_ratio_at_fer_1pct", "ratio"),
    ("the bytes ratio there, GQA-true", "frontier.bytes_ratio_gqa_at_fer_1pct", "ratio"),
    (_MASS, "frontier.elimination_at_dropped_mass_1pct", "percent"),
    ("the bytes ratio there, GQA-true", "frontier.bytes_ratio_gqa_at_dropped_mass_1pct", "ratio"),
    ("Historical protocol: heads with a safe point", "historical.safe_head_share", "percent"),
    ("The model itself decodes under elimination: bytes ratio, GQA-true", "quality.at_030.bytes_ratio_gqa", "ratio"),
    ("KL of its next token from the dense model's there (nats)", "quality.at_030.kl", "tiny"),
    ("Quest's KL over that, at the same bytes", "quality.at_030.kl_ratio_to_quest", "factor"),
    ("its first choice is the dense model's there", "quality.at_030.top1", "percent"),
    (_LAYER, "speed.layer_32k", "factor"),
    ("the output error there", "speed.output_error_32k", "percent"),
    ("The fastest dense decode step of the whole model over that under elimination, 8,192 tokens", "speed.step_smollm2_8k", "factor"),
    ("Single needles up to 4,096 tokens: accuracy over the dense model's", _NEEDLE + "relative_accuracy", "percent"),
    ("the bytes ratio there, GQA-true", _NEEDLE + "bytes_ratio_gqa", "ratio"),
    (
        "Heads of which a certified index reads under half of the records at 8,192 tokens",
        "hierarchy.heads_reading_under_half_at_8k", "percent",
    ),
)  # fmt: skip


def results_block(figures: Mapping[str, Mapping]) -> str:
    """The README's table of results, markers included."""
    lines = [BEGIN, "", "| Measured | | n |", "|:--|--:|--:|"]
    for label, name, kind in ROWS:
        if name in figures:
            lines.append(f"| {label} | {FORMATS[kind](figures[name]['value'])} | {figures[name]['n']} |")
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
