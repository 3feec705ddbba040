"""The README's numbers come from a report and from nowhere else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ghostkv.files.errors import TableError
from ghostkv.report.__main__ import BEGIN, END, FIGURE, ROWS, main, renew

ROOT = Path(__file__).parents[2]
FIGURES = {"frontier.safe_head_share": {"value": 0.9963, "unit": "share", "n": 270, "source": ""}}


def test_the_block_is_replaced_and_all_else_kept():
    text = renew(f"before\n{BEGIN}\nold\n{END}\nafter\n", FIGURES)
    assert text.startswith(f"before\n{BEGIN}\n")
    assert text.endswith(f"{END}\nafter\n")
    assert "| Heads with a safe point on held-out text | 99.63 % | 270 |" in text
    assert "old" not in text
    assert renew(text, FIGURES) == text


def test_a_readme_without_a_place_is_told_what_to_write():
    with pytest.raises(TableError, match="Write these two lines"):
        renew("nothing here", FIGURES)


def test_the_command_renews_readme_and_picture(tmp_path):
    report, readme = tmp_path / "report", tmp_path / "README.md"
    (report / "figures").mkdir(parents=True)
    (report / "headline.json").write_text(json.dumps(FIGURES))
    (report / "figures" / FIGURE).write_text("<svg/>")
    readme.write_text(f"{BEGIN}\n{END}\n")
    main(["--report", str(report), "--readme", str(readme), "--figures", str(tmp_path / "docs")])
    assert "99.63 %" in readme.read_text()
    assert (tmp_path / "docs" / FIGURE).read_text() == "<svg/>"


def test_without_a_report_the_command_says_what_to_run(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["--report", str(tmp_path)])
    assert "run `snakemake report` first" in capsys.readouterr().err


def test_the_readme_has_the_place_the_picture_and_both_commands():
    text = (ROOT / "README.md").read_text()
    assert BEGIN in text
    assert END in text
    assert f"docs/figures/{FIGURE}" in text
    assert "make frontier" in text
    assert "make test" in text
    assert all("." in name for _, name, _ in ROWS)
