"""Numbers, tables and pages print what they were given."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import jinja2
import polars as pl
import pyarrow as pa
import pytest

from ghostkv.files.io import write_table
from ghostkv.report.chapters import CHAPTERS
from ghostkv.report.document import Chapter, Column, HeadlineFigure, Prose, Table
from ghostkv.report.figures import inline
from ghostkv.report.headline import measure
from ghostkv.report.numbers import counted, factor, listed, percent, tiny
from ghostkv.report.render import BuiltChapter, as_html, as_markdown, printed
from ghostkv.report.results import Results
from ghostkv.report.schemas import SCHEMAS
from tests.report.fixtures import make_params, make_tables

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


def shown_in_markdown(chapters: list) -> str:
    about = {"title": "T", "subtitle": "s", "left_out": []}
    return as_markdown(**about, chapters=chapters, table_rows=10, figures="figures")


def test_other_numbers_read_well():
    assert (factor(1.234), factor(512.3), tiny(2.8e-6)) == ("1.23x", "512x", "2.8e-06")
    assert listed(["a", "b", "c"]) == "a, b and c"
    assert (counted(1, "text"), counted(2, "text")) == ("1 text", "2 texts")


def test_a_cut_table_says_so():
    assert "The first 1 of 2 rows" in printed(TABLE, limit=1).caption
    assert printed(TABLE).rows == [["a|b", "50.0 %"], ["c", "–"]]


def test_markdown_escapes_what_would_break_a_table():
    text = shown_in_markdown([BuiltChapter(Chapter("x", "X", lambda r: []), [TABLE])])
    assert "| a\\|b | 50.0 % |" in text


def test_html_escapes_words_and_renders_markdown():
    chapter = BuiltChapter(Chapter("x", "X & Y", lambda r: []), [Prose("**bold** <script>"), TABLE])
    page = as_html(title="T", subtitle="s", chapters=[chapter], left_out=["<this>"], svgs={})
    assert "<strong>bold</strong> &lt;script&gt;" in page
    assert "X &amp; Y" in page
    assert "&lt;this&gt;" in page


@pytest.fixture
def results(tmp_path, monkeypatch):
    """Three tables of a stage that does not exist."""
    schema = pa.schema([("x", pa.float64())])
    monkeypatch.setitem(SCHEMAS, "stage", dict.fromkeys("abc", schema))
    paths = {f"stage_{name}": str(tmp_path / f"{name}.parquet") for name in "abc"}
    for path in paths.values():
        write_table(pl.DataFrame({"x": [1.0, 2.0]}), path, schema)
    return Results(paths, make_params())


def _named(chapter: BuiltChapter) -> list[str]:
    """For each block the tables that it names, as letters."""
    return ["".join(Path(path).stem for path in chapter.made_from(block)) for block in chapter.blocks]


def _table(name: str, data: pl.DataFrame, **more) -> Table:
    return Table(name, "", data, {"x": Column("x")}, **more)


def test_a_block_names_what_was_read_since_the_block_before(results):
    def build(results):
        blocks = [_table("one", results.table("stage.a")), Prose(str(results.table("stage.b").height))]
        return [*blocks, _table("two", results.table("stage.a").join(results.table("stage.c"), on="x"))]

    chapter = BuiltChapter.of(Chapter("x", "X", build), results, {})
    assert _named(chapter) == ["a", "b", "ac"]
    assert chapter.tables == [results.path(f"stage.{name}") for name in "abc"]


def test_a_block_that_was_handed_frames_names_all_that_they_may_hold(results):
    def build(results):
        a, b = results.table("stage.a"), results.table("stage.b")
        return [
            Prose(str(a.height)),
            _table("one", b),
            _table("two", results.table("stage.c")),
            _table("three", a),
        ]

    assert _named(BuiltChapter.of(Chapter("x", "X", build), results, {})) == ["ab", "ab", "c", "abc"]


def test_a_block_that_states_its_sources_is_believed(results):
    def build(results):
        data = results.table("stage.a")
        return [
            _table("one", data, sources=("stage.b",)),
            _table("two", pl.DataFrame({"x": [0]}), sources=()),
        ]

    assert _named(BuiltChapter.of(Chapter("x", "X", build), results, {})) == ["b", ""]


def test_a_table_read_by_another_chapter_before_is_named_again(results):
    chapter = Chapter("x", "X", lambda results: [_table("one", results.table("stage.a"))])
    assert [_named(BuiltChapter.of(chapter, results, {})) for _ in range(2)] == [["a"], ["a"]]


def test_what_a_chapter_names_does_not_hang_on_the_chapters_before(tmp_path):
    tables, params = make_tables(tmp_path), make_params()
    shared = Results(tables, params)
    for chapter in CHAPTERS:
        if all(map(shared.has, chapter.needs)):
            alone = BuiltChapter.of(chapter, Results(tables, params), {})
            after = BuiltChapter.of(chapter, shared, {})
            assert alone.tables == after.tables, chapter.name
            assert _named(alone) == _named(after), chapter.name
            assert alone.tables, chapter.name


def test_a_figure_is_printed_where_it_is_quoted_too(results):
    figure = HeadlineFigure(
        "stage.sum", "things", "stage.a", "SELECT sum(x) AS value, count(*) AS n FROM self"
    )
    own = Chapter("own", "Own", lambda results: [], headline=(figure,))
    other = Chapter("other", "Other", lambda results: [], quotes=("stage.sum", "stage.not_measured"))
    measured = measure(results, [own, other])
    chapters = [BuiltChapter.of(chapter, results, measured) for chapter in (own, other)]
    line = f"`stage.sum` = 3.0 (things; n = 2): `{figure.query}` on `{results.path('stage.a')}`"
    assert shown_in_markdown(chapters).count(line) == 2


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
        job = SimpleNamespace(config=make_params().config, wildcards=SimpleNamespace(figure=name))
        first = jinja2.Template(caption).render(snakemake=job).strip().split("\n\n")[0]
        assert not first.startswith("Drawn from"), f"{name} has no sentence of its own in figures.rst"
