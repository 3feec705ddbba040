"""Numbers, tables and pages print what they were given."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import jinja2
import polars as pl
import pytest

from ghostkv.report.document import Column, Prose, Section, Table
from ghostkv.report.figures import inline
from ghostkv.report.numbers import counted, factor, listed, percent, tiny
from ghostkv.report.render import Chapter, as_html, as_markdown, printed
from tests.report.fixtures import make_params

TABLE = Table(
    "t", "A caption.", pl.DataFrame({"name": ["a|b", "c"], "share": [0.5, None]}),
    {"name": Column("Name"), "share": Column("Share", "percent")},
)  # fmt: skip


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.5, "50.0 %"), (0.004, "0.40 %"), (0.9968, "99.68 %"), (1.0, "100.0 %"), (None, "–")],
)
def test_shares_get_more_digits_near_nothing_and_all(value, text):
    assert percent(value) == text


def test_other_numbers_read_well():
    assert (factor(1.234), factor(512.3), tiny(2.8e-6)) == ("1.23x", "512x", "2.8e-06")
    assert listed(["a", "b", "c"]) == "a, b and c"
    assert (counted(1, "text"), counted(2, "text")) == ("1 text", "2 texts")


def test_a_cut_table_says_so():
    assert "The first 1 of 2 rows" in printed(TABLE, limit=1).caption
    assert printed(TABLE).rows == [["a|b", "50.0 %"], ["c", "–"]]


def test_markdown_escapes_what_would_break_a_table():
    text = as_markdown("T", "s", [Chapter(Section("x", "X", lambda r: []), [TABLE])], [], 10, "figures")
    assert "| a\\|b | 50.0 % |" in text


def test_html_escapes_words_and_renders_markdown():
    chapter = Chapter(Section("x", "X & Y", lambda r: []), [Prose("**bold** <script>"), TABLE])
    page = as_html("T", "s", [chapter], ["<this>"], {})
    assert "<strong>bold</strong> &lt;script&gt;" in page
    assert "X &amp; Y" in page
    assert "&lt;this&gt;" in page


def test_svgs_in_one_page_share_no_id():
    svg = '<?xml version="1.0"?><svg xmlns="http://x" xmlns:xlink="http://y"><clipPath id="clip0"/><g clip-path="url(#clip0)"/></svg>'
    one, two = inline(svg, "one", "One"), inline(svg, "two", "Two")
    assert 'id="one-clip0"' in one
    assert "url(#one-clip0)" in one
    assert "clip0" in two
    assert "one-" not in two
    assert "http" not in one


def test_the_workflow_caption_knows_every_figure_of_the_report():
    root = Path(__file__).parents[2]
    sources = "".join(path.read_text() for path in sorted((root / "ghostkv/report").rglob("*.py")))
    # Names that hold a metric stand for two.
    found = re.findall(r'\bFigure\(\s*f?"([a-z_{}]+)"', sources)
    names = {name.replace("{metric}", metric) for name in found for metric in ("fer", "dropped_mass")}
    assert len(names) > 30
    caption = (root / "workflow/report/figures.rst").read_text()
    for name in names | {"certificates_mass_1pct"}:
        job = SimpleNamespace(config=make_params()["config"], wildcards=SimpleNamespace(figure=name))
        first = jinja2.Template(caption).render(snakemake=job).strip().split("\n\n")[0]
        assert not first.startswith("Drawn from"), f"{name} has no sentence of its own in figures.rst"
