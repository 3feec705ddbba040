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
    page = as_html(title="T", subtitle="s", chapters=[chapter], left_out=["<this>"], written={})
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


def _named(chapter: BuiltChapter, block: Table) -> str:
    """The tables that a block names, as letters."""
    return "".join(Path(path).stem for path in chapter.made_from(block))


def _table(name: str, data: pl.DataFrame, **more) -> Table:
    return Table(name, "", data, {"x": Column("x")}, **more)


def _over(*blocks, needs=(), front=None) -> Chapter:
    return Chapter("x", "X", lambda results: blocks, needs=needs, front=front)


def test_a_block_names_what_it_states_or_else_what_its_chapter_needs(results):
    data = results.table("stage.a")
    own, stated = _table("one", data), _table("two", data, sources=("stage.b",))
    listed = _table("three", data, sources=())
    chapter = BuiltChapter.of(_over(own, stated, listed, needs=("stage.a", "stage.c")), results, {})
    assert [_named(chapter, block) for block in (own, stated, listed)] == ["ac", "b", ""]
    assert sorted(chapter.tables) == [results.path(f"stage.{name}") for name in "abc"]


def _front(chapter: Chapter, results) -> list[str]:
    built = BuiltChapter.of(chapter, results, {})
    assert len(built.front) + len(built.more) >= len(built.blocks)
    return [block.text if isinstance(block, Prose) else block.name for block in built.front]


def test_one_paragraph_and_what_a_chapter_names_stand_in_front(results):
    blocks = (
        Prose("first\n\nsecond"),
        *(_table(name, results.table("stage.a")) for name in ("one", "two")),
        Prose("third"),
    )
    assert _front(_over(*blocks, front=("two",)), results) == ["first", "two"]
    assert _front(_over(*blocks, front=()), results) == ["first"]
    # A chapter that says nothing, and one whose blocks are not there, show the first of either kind.
    assert (
        _front(_over(*blocks), results)
        == _front(_over(*blocks, front=("else",)), results)
        == ["first", "one"]
    )
    more = BuiltChapter.of(_over(*blocks, front=("two",)), results, {}).more
    assert [block.text if isinstance(block, Prose) else block.name for block in more] == [
        "second",
        "one",
        "third",
    ]


class _Watched(Results):
    """Results that note which tables are asked for."""

    def __init__(self, *given):
        super().__init__(*given)
        self.asked = set()

    def table(self, name):
        self.asked.add(name)
        return super().table(name)

    def scan(self, name):
        self.asked.add(name)
        return super().scan(name)

    def manifest(self):
        self.asked.add("model.manifest")
        return super().manifest()


def test_a_chapter_states_every_table_that_it_reads_and_no_other(tmp_path):
    tables, params = make_tables(tmp_path), make_params()
    for chapter in CHAPTERS:
        watched = _Watched(tables, params)
        # Provenance looks into every file.
        if chapter.name != "provenance" and all(map(watched.has, chapter.needs)):
            blocks = chapter.build(watched)
            stated = {name for block in blocks for name in block.sources or ()} | set(chapter.needs)
            assert watched.asked - stated == set(), chapter.name
            assert stated - watched.asked - set(chapter.needs) == set(), chapter.name


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
    files = sorted((root / "ghostkv/report").rglob("*.py"))
    # A comparison of runs is a page of its own.
    sources = "".join(path.read_text() for path in files if path.name != "compared.py")
    # Names that hold a metric stand for two.
    found = re.findall(r'\bFigure\(\s*f?"([a-z_{}]+)"', sources)
    names = {name.replace("{metric}", metric) for name in found for metric in ("fer", "dropped_mass")}
    assert len(names) > 30
    caption = (root / "workflow/report/figures.rst").read_text()
    for name in names | {"certificates_mass_1pct"}:
        job = SimpleNamespace(config=make_params().config, wildcards=SimpleNamespace(figure=name))
        first = jinja2.Template(caption).render(snakemake=job).strip().split("\n\n")[0]
        assert not first.startswith("Drawn from"), f"{name} has no sentence of its own in figures.rst"
