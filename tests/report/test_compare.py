"""Finished runs side by side: figures with their differences, frontiers, and what changed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import polars as pl
import pytest

from ghostkv.files.errors import ConfigError, TableError
from ghostkv.report.comparison import compare_runs
from ghostkv.report.jobs import CompareRuns, compared_files
from ghostkv.report.sections.compared import CHAPTERS, Comparison, ReportedRun
from tests.report.fixtures import make_tables
from tests.report.page import write_report_of


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A run, and another in which capture was slower, with another hot window and one table of other code."""
    found = []
    for name, overhead in (("one", 1.2), ("two", 1.5)):
        folder = tmp_path_factory.mktemp(name)
        write_report_of(make_tables(folder, overhead=overhead), folder / "report")
        found.append(folder)
    about = json.loads((found[1] / "report/run.json").read_text())
    about["config"]["frontier"]["hot"] += 1
    about["tables"]["frontier.sweep"]["code"] = "other"
    about["model"] = "another"
    (found[1] / "report/run.json").write_text(json.dumps(about))
    figures = json.loads((found[1] / "report/headline.json").read_text())
    renamed = {name.replace("made-up.", "another.", 1): one for name, one in figures.items()}
    (found[1] / "report/headline.json").write_text(json.dumps(renamed))
    return found


@pytest.fixture(scope="module")
def compared(folders):
    return Comparison([ReportedRun.read(str(folder)) for folder in folders])


@pytest.fixture(scope="module")
def blocks(compared):
    return {
        block.name: block.data
        for chapter in CHAPTERS
        for block in chapter.build(compared)
        if hasattr(block, "data")
    }


def test_every_figure_stands_beside_the_others_with_its_difference(blocks):
    rows = {row["figure"]: row for row in blocks["compared_figures"].iter_rows(named=True)}
    overhead = rows["capture.overhead_ratio"]
    assert (overhead["run_0"], overhead["run_1"]) == pytest.approx((1.2, 1.5))
    assert overhead["run_1_less"] == pytest.approx(0.3)
    assert rows["frontier.safe_head_share"]["run_1_less"] == 0.0
    # A figure that bears its model's name is the same figure in both.
    shared = [name for name in rows if name.startswith("{model}.")]
    assert shared
    assert all(rows[name]["run_1_less"] == 0.0 for name in shared if rows[name]["run_0"] is not None)


def test_frontiers_of_all_runs_are_in_one_picture(blocks, folders):
    data = blocks["compared_frontiers"]
    assert set(data["run"]) == {str(folder) for folder in folders}
    assert set(data["codec"]) == {"transform_code", "exact"}
    for _, rows in data.group_by("run"):
        assert rows.height > 5


def test_what_differs_in_config_and_code_is_told_and_nothing_else(blocks):
    assert blocks["compared_config"].get_column("key").to_list() == ["frontier.hot"]
    code = blocks["compared_code"]
    assert code.get_column("key").to_list() == ["frontier.sweep"]
    assert code["run_1"].to_list() == ["other"] != code["run_0"].to_list()


def test_contexts_are_those_of_both_runs(blocks):
    rows = blocks["models_certificates"]
    assert rows["model"].unique().sort().to_list() == ["another", "made-up"]
    assert set(rows.group_by("promise", "band").len()["len"]) == {2}


def test_the_page_holds_all_of_it(folders, tmp_path):
    job = CompareRuns(png_scale=0.5, table_rows=10, runs=tuple(map(str, folders)))
    outputs = {"html": "c.html", "markdown": "c.md", "figures": "figures"}
    compare_runs(job, {}, {name: str(tmp_path / file) for name, file in outputs.items()})
    page, text = (tmp_path / "c.html").read_text(), (tmp_path / "c.md").read_text()
    for chapter in CHAPTERS:
        assert f'<section id="{chapter.name}">' in page
        assert f"## {chapter.title}" in text
    assert (tmp_path / "figures/compared_frontiers.png").exists()


def test_a_report_that_is_damaged_or_not_there_is_named(folders, tmp_path):
    run = SimpleNamespace(folder="results")
    one, two = map(str, folders)
    assert compared_files(run, [one, two])[0] == f"{one}/report/run.json"
    # The report of this run is made, so that it need not be there.
    assert "results/report/run.json" in compared_files(run, ["results", one])
    for wrong in ([], "results", [one], [one, one], None):
        with pytest.raises(ConfigError, match="(?s)runs is .*Write: snakemake compare"):
            compared_files(run, wrong)
    with pytest.raises(ConfigError, match=r"there is no nowhere/report/run\.json"):
        compared_files(run, [one, "nowhere"])
    broken = Path(shutil.copytree(one, tmp_path / "broken"))
    (broken / "report/run.json").write_text("{")
    with pytest.raises(TableError, match="not a finished report"):
        ReportedRun.read(str(broken))


def test_a_run_without_certificates_is_compared_all_the_same(folders, tmp_path):
    bare = Path(shutil.copytree(folders[0], tmp_path / "bare"))
    shutil.rmtree(bare / "certificates")
    runs = Comparison([ReportedRun.read(str(folder)) for folder in (folders[0], bare)])
    said, *tables = CHAPTERS[1].build(runs)
    assert tables == []
    assert "Fewer than two" in said.text
    assert pl.Series([block.data.height for block in CHAPTERS[0].build(runs)[1:]]).max() > 0
