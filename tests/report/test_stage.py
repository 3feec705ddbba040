"""The report as files: complete, readable offline, honest about what it lacks."""

from __future__ import annotations

import json
import re
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import polars as pl
import pytest

from ghostkv.elimination.schemas import POINT_SCHEMA
from ghostkv.files.errors import ConfigError, TableError
from ghostkv.files.io import write_table
from ghostkv.report.chapters import CHAPTERS
from ghostkv.report.jobs import BEYOND, report_tables, tables_beside
from ghostkv.report.schemas import SCHEMAS
from tests.report.fixtures import make_tables
from tests.report.page import write_report_of

# Stages that the made-up run was not asked for.
MISSING = {
    "buffer",
    "quality",
    "hierarchy",
    "decode",
    "store",
    "synthetic",
    "bandwidth",
    "reproduce",
    "retrieval",
    "speed",
    "demo",
}


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return write_report_of(make_tables(folder / "results"), folder / "report")


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("imported")
    tables = make_tables(folder / "results", imported=True)
    impossible = ("quality", "retrieval", "hierarchy", "decode", "historical")
    return write_report_of(tables, folder / "report", impossible=impossible)


def _chapters(report: Path, form: str) -> dict[str, str]:
    """The text of each chapter, by name; in HTML without escapes."""
    if form == "html":
        text = unescape((report / "report.html").read_text())
        return dict(re.findall(r'<section id="([\w-]+)">(.*?)</section>', text, re.DOTALL))
    names = {chapter.title: chapter.name for chapter in CHAPTERS}
    parts = re.split(r"^## (.*)$", (report / "RESULTS.md").read_text(), flags=re.MULTILINE)
    return {names.get(title, title): body for title, body in zip(parts[1::2], parts[2::2], strict=True)}


class _Page(HTMLParser):
    """What a page refers to, its tags, and the text of its captions."""

    def __init__(self, text: str):
        super().__init__()
        self.references, self.tags, self.ids = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        for name, value in attributes:
            if name in ("href", "src", "srcset", "data", "action", "xlink:href"):
                self.references.append(value)
            if name == "id":
                self.ids.append(value)


def _without_library(text: str) -> str:
    """A page but for Vega, in which addresses stand that nothing asks for."""
    return re.sub(r"<script>.*?</script>", "", text, count=1, flags=re.DOTALL)


def test_the_page_names_no_address_outside_itself(report):
    text = (report / "report.html").read_text()
    assert len(_without_library(text)) < len(text) - 500_000
    page = _Page(_without_library(text))
    assert page.references
    assert all(reference.startswith("#") for reference in page.references)
    assert "link" not in page.tags
    assert not re.search(r"url\((?!#)|@import|https?:", _without_library(text))


def test_every_entry_of_the_contents_leads_somewhere(report):
    page = _Page(_without_library((report / "report.html").read_text()))
    assert {reference.removeprefix("#") for reference in page.references} <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))


def test_every_figure_has_caption_picture_and_numbers(report):
    text = (report / "report.html").read_text()
    names = re.findall(r'<figure id="figure-(\w+)"', text)
    assert len(names) >= 9
    assert text.count("<figcaption>") == len(names)
    for name in names:
        assert (report / "figures" / f"{name}.svg").read_text().startswith("<svg")
        assert (report / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert pl.read_csv(report / "figures" / f"{name}.csv").height > 0
        assert f"figures/{name}.csv" in text
    assert {path.stem for path in (report / "figures").iterdir()} == set(names)


def test_every_table_has_a_caption_that_says_more_than_its_name(report):
    page = _without_library((report / "report.html").read_text())
    captions = re.findall(r"<caption>(.*?)</caption>", page, re.DOTALL)
    assert len(captions) == page.count("<table>")
    assert min(map(len, captions)) > 40


def test_all_sections_are_there_in_both_forms(report):
    html, markdown = (report / "report.html").read_text(), (report / "RESULTS.md").read_text()
    for chapter in CHAPTERS:
        extra = chapter.name in MISSING
        assert (f'<section id="{chapter.name}">' in html) is not extra
        assert (f"## {chapter.title}\n" in markdown) is not extra
        # A stage that was not run is named with the command that runs it.
        # The demonstration has a report of its own.
        stage = chapter.needs[0].partition(".")[0] if extra else chapter.name
        assert (f"`snakemake {stage}` runs it" in html) is (extra and chapter.name != "demo")


@pytest.mark.parametrize("form", ["html", "markdown"])
def test_every_chapter_prints_the_tables_that_it_needs(report, form):
    chapters = _chapters(report, form)
    for chapter in CHAPTERS:
        for table in chapter.needs if chapter.name in chapters else ():
            path = str(report.parent / "results" / f"{table.replace('.', '/')}.parquet")
            path = path.replace("/capture/layers", "/capture/*/layers")
            assert path in chapters[chapter.name].split("Tables of this chapter")[1], (chapter.name, table)


def test_every_figure_and_table_names_the_files_that_it_was_made_from(report):
    html = (report / "report.html").read_text()
    captions = re.findall(r"<(figcaption|caption)>(.*?)</\1>", html, re.DOTALL)
    lacking = [text for _, text in captions if ".parquet</code>" not in text.split(" From ")[-1]]
    # The table of all tables is made from all of them.
    assert [text.split(",")[0] for text in lacking] == ["All tables behind this page"]
    sourced = re.findall(r"From `[^\n]+\.parquet`\.$", (report / "RESULTS.md").read_text(), re.MULTILINE)
    assert len(sourced) == len(captions) - 1


@pytest.mark.parametrize("form", ["html", "markdown"])
def test_every_headline_figure_stands_in_its_chapter_with_its_query(report, form):
    chapters, figures = _chapters(report, form), json.loads((report / "headline.json").read_text())
    printed = 0
    for chapter in CHAPTERS:
        names = [figure.name.format(model="made-up") for figure in chapter.headline]
        for name in filter(figures.__contains__, names):
            path, query = figures[name]["source"].split(": ", 1)
            code = "<code>{}</code>" if form == "html" else "`{}`"
            figure = figures[name]
            counted = f"n = {figure['n']}" + (
                "" if figure["texts"] is None else f"; texts = {figure['texts']}"
            )
            if figure["low"] is not None:
                counted += f"; 95 % interval over them {figure['low']:.4g} to {figure['high']:.4g}"
            line = f"{code} = {json.dumps(figure['value'])} ({figure['unit']}; {counted})"
            line = f"{line}: {code} on {code}".format(name, query, path)
            assert line in chapters[chapter.name], name
            printed += 1
    assert printed == len(figures) > 10


def test_figures_that_a_chapter_quotes_have_their_query_there_too(report):
    answer = _chapters(report, "markdown")["answer"]
    figures = json.loads((report / "headline.json").read_text())
    quoted = [name for name in CHAPTERS[0].quotes if name in figures]
    assert len(quoted) > 5
    for name in quoted:
        assert f"- `{name}` = " in answer


def test_provenance_lists_every_table_with_rows_version_and_code(report):
    provenance = _chapters(report, "html")["provenance"]
    files = [
        path for path in (report.parent / "results").rglob("*.parquet") if path.parents[1].name != "capture"
    ]
    assert len(files) > 20
    for path in files:
        row = re.search(rf"<tr><td[^>]*>{re.escape(str(path))}</td>(.*?)</tr>", provenance)
        assert f">{pl.read_parquet(path).height:,}<" in row[1]
    # Rows, model, version and code of a table that says what made it.
    frontier = re.search(r"frontier/points\.parquet</td>(.*?)</tr>", provenance)[1]
    assert re.findall(r">([^<]+)<", frontier)[1:] == ["made-up", "0", "f" * 12]


def test_the_answer_states_sample_spread_and_worst_head(report):
    answer = (report / "RESULTS.md").read_text().split("## The frontier")[0]
    assert "7 of 8 heads" in answer
    assert "layer 0, head 0" in answer
    assert "2 held-out texts of 2 domains (essays and code)" in answer
    assert "| essays |" in answer
    assert "Exact scores" in answer


def test_blocks_in_front_are_few():
    # A chapter that names none shows the first figure and the first table.
    fronts = [2 if chapter.front is None else len(chapter.front) for chapter in CHAPTERS]
    assert max(fronts) <= 3
    assert sum(fronts) + len(CHAPTERS) <= 64


def test_markdown_links_figures_that_exist(report):
    links = re.findall(r"\]\((figures/[^)]+)\)", (report / "RESULTS.md").read_text())
    assert links
    assert all((report / link).exists() for link in links)


def test_the_same_tables_give_the_same_bytes_whatever_lay_there_before(report, tmp_path):
    stale = tmp_path / "figures" / "stale.svg"
    stale.parent.mkdir(parents=True)
    stale.write_text("<svg/>")
    again = write_report_of(make_tables(report.parent / "results"), tmp_path)
    assert not stale.exists()
    for path in sorted(report.rglob("*.*")):
        other = again / path.relative_to(report)
        if path.suffix == ".parquet":
            # Its metadata name the folder that it is in.
            assert pl.read_parquet(path).equals(pl.read_parquet(other)), path.name
        else:
            assert path.read_bytes() == other.read_bytes(), path.name


def test_imported_tensors_leave_out_what_needs_a_model_and_say_so(imported):
    text = (imported / "RESULTS.md").read_text()
    assert "## The historical experiment" not in text
    assert "The historical experiment: it runs the model" in text
    assert "Output errors: no values were captured" in text
    assert "without the model's outputs, so nothing here could be proved" in text
    figures = json.loads((imported / "headline.json").read_text())
    assert "capture.overhead_ratio" not in figures
    assert figures["frontier.safe_head_share"]["n"] == 8


@pytest.fixture(scope="module")
def frontier_alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("frontier")
    tables = make_tables(folder / "results")
    kept = {name: path for name, path in tables.items() if name.partition("_")[0] not in BEYOND}
    return write_report_of(kept, folder / "report")


def test_the_frontier_alone_makes_a_report_that_names_every_other_stage(frontier_alone):
    chapters = _chapters(frontier_alone, "html").keys()
    asked = {
        chapter.name
        for chapter in CHAPTERS
        if chapter.needs and chapter.needs[0].split(".")[0] in {*BEYOND, "demo"}
    }
    assert chapters - {"left-out"} == {chapter.name for chapter in CHAPTERS} - asked
    text = (frontier_alone / "RESULTS.md").read_text()
    assert all(f"`snakemake {stage}` runs it" in text for stage in BEYOND)
    assert set(json.loads((frontier_alone / "headline.json").read_text())) >= {"frontier.safe_head_share"}


def test_a_table_that_must_be_there_is_named_when_it_is_not(tmp_path):
    tables = make_tables(tmp_path / "results")
    del tables["frontier_sweep"]
    with pytest.raises(TableError, match=r"needs the table frontier\.sweep.*\n.*add frontier_sweep"):
        write_report_of(tables, tmp_path / "report")
    assert not (tmp_path / "report" / "report.html").exists()


def test_every_table_that_a_report_reads_has_its_columns_stated():
    known = {f"{stage}_{name}" for stage, tables in SCHEMAS.items() for name in tables}
    run = SimpleNamespace(imports={}, captures=(), model_folder="m", folder="results")
    assert set(report_tables(run, {"all"})) - {"model_manifest"} <= known


def test_a_run_that_is_to_be_shown_beside_must_have_ended(tmp_path):
    for stage in ("certificates", "frontier"):
        with pytest.raises(ConfigError, match=f"report.beside is {tmp_path}, .*{stage}/context"):
            tables_beside(str(tmp_path))
        (tmp_path / stage).mkdir()
        (tmp_path / stage / "context.parquet").touch()
    assert tables_beside(str(tmp_path)) == {
        f"beside_{stage}": f"{tmp_path}/{stage}/context.parquet" for stage in SCHEMAS["beside"]
    }
    assert tables_beside(None) == {}


def test_a_table_that_lost_its_rows_is_refused(tmp_path):
    paths = make_tables(tmp_path)
    write_table(POINT_SCHEMA.empty_table(), paths["frontier_points"], POINT_SCHEMA)
    with pytest.raises(TableError, match=r"frontier/points\.parquet: it has no rows"):
        write_report_of(paths, tmp_path / "report")
