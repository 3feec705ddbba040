"""The README's numbers come from a report and from nowhere else."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from ghostkv.files.errors import TableError
from ghostkv.report import chapters
from ghostkv.report.__main__ import (
    ANSWER_BEGIN,
    ANSWER_END,
    BEGIN,
    END,
    FIGURE,
    ROWS,
    answer_block,
    main,
    renew,
)
from ghostkv.report.sentences import ANSWER

ROOT = Path(__file__).parents[2]
FIGURES = {
    "frontier.safe_head_share": {
        "value": 0.9963,
        "unit": "share",
        "n": 270,
        "source": "",
        "texts": 12,
        "low": 0.981,
        "high": 0.9991,
    }
}


EMPTY = f"before\n{ANSWER_BEGIN}\nold\n{ANSWER_END}\nbetween\n{BEGIN}\nold\n{END}\nafter\n"


def test_the_blocks_are_replaced_and_all_else_kept():
    text = renew(EMPTY, FIGURES)
    assert text.startswith(f"before\n{ANSWER_BEGIN}\n")
    assert "between" in text
    assert text.endswith(f"{END}\nafter\n")
    assert "| Heads with a safe point on held-out text | 99.63 % | [98.1, 99.91 %] | 270 | 12 |" in text
    assert "old" not in text
    assert renew(text, FIGURES) == text


def test_a_sentence_of_the_answer_needs_all_of_its_figures():
    figures = {name: {"value": 0.125} for name in re.findall(r"\{([\w.]+):", ANSWER[0])}
    assert answer_block(figures).count("12.5 %") == len(figures) == 2
    assert answer_block(figures).count("\n- ") == 1
    assert answer_block({}).count("\n- ") == 0
    sure = {name: {"value": 0.125, "low": 0.1, "high": 0.2} for name in figures}
    assert answer_block(sure).count("12.5 % [10.0, 20.0 %]") == 2


def test_a_readme_without_a_place_is_told_what_to_write():
    with pytest.raises(TableError, match="Write these two lines"):
        renew("nothing here", FIGURES)


def test_the_command_renews_readme_and_picture(tmp_path):
    report, readme = tmp_path / "report", tmp_path / "README.md"
    (report / "figures").mkdir(parents=True)
    (report / "headline.json").write_text(json.dumps(FIGURES))
    (report / "figures" / FIGURE).write_text("<svg/>")
    readme.write_text(EMPTY)
    main(["--report", str(report), "--readme", str(readme), "--figures", str(tmp_path / "docs")])
    assert "99.63 %" in readme.read_text()
    assert (tmp_path / "docs" / FIGURE).read_text() == "<svg/>"


def test_without_a_report_the_command_says_what_to_run(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["--report", str(tmp_path)])
    assert "run `snakemake report` first" in capsys.readouterr().err


def test_the_first_screen_has_the_answer_then_the_picture_then_the_commands():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    places = [ANSWER_BEGIN, ANSWER_END, f"docs/figures/{FIGURE}", "make frontier", "make test", BEGIN, END]
    assert [text.count(place) > 0 for place in places] == [True] * len(places)
    found = [text.index(place) for place in places]
    assert found == sorted(found)


def test_every_figure_of_the_readme_is_one_that_a_chapter_promises():
    listed = chapters.CHAPTERS
    promised = {figure.name for chapter in listed for figure in chapter.headline}
    shown = {name for _, name, _ in ROWS} | {
        name for sentence in ANSWER for name in re.findall(r"\{([\w.]+):", sentence)
    }
    assert shown - promised == set()
