"""What an edit of the package or the config reruns, asked of the real Snakemake."""

from __future__ import annotations

import os

import pytest

from tests.workflow.conftest import restore_times

SKETCH = {"sketch_layer": 2, "sweep_layer": 2, "gather_frontier": 1, "summarise_heads": 1, "report": 1}


def test_a_touch_a_comment_and_a_docstring_rerun_nothing(project):
    times = {path: path.stat() for path in (project.root / "ghostkv").rglob("*.py")}
    for path in times:
        os.utime(path)
    comment = project.edited(
        "ghostkv/codecs/transform_code.py", "from __future__", "# A comment.\nfrom __future__"
    )
    docstring = project.edited("ghostkv/stages/capture/text.py", '"""', '"""Said better. ')
    try:
        with comment, docstring:
            assert project.planned() == {}
    finally:
        for path, before in times.items():
            restore_times(path, before)


def test_codec_code_reruns_sketch_frontier_and_report_but_no_capture(project):
    with project.edited("ghostkv/codecs/transform_code.py", "from __future__ import annotations\n", EDIT):
        planned = project.planned()
    assert planned.keys() >= SKETCH.keys()
    assert {rule: planned[rule] for rule in SKETCH} == SKETCH
    assert not planned.keys() & {"fetch_model", "assemble_texts", "capture_text", "capture_overhead"}


EDIT = "from __future__ import annotations\nCHANGED = 1\n"


@pytest.mark.parametrize(
    ("file", "reruns", "spares"),
    [
        (
            "ghostkv/report/stage.py",
            {"report"},
            {"sweep_layer", "gather_frontier", "run_historical", "capture_text"},
        ),
        ("ghostkv/stages/frontier/layer.py", {"sweep_layer", "report"}, {"sketch_layer", "capture_text"}),
        (
            "ghostkv/stages/capture/text.py",
            {"capture_text", "sketch_layer", "sweep_layer"},
            {"fetch_model", "assemble_texts"},
        ),
    ],
    ids=["report", "frontier", "capture"],
)
def test_code_of_a_stage_reruns_it_and_what_follows(project, file, reruns, spares):
    with project.edited(file, "from __future__ import annotations\n", EDIT):
        planned = project.planned().keys()
    assert planned >= reruns
    assert not planned & spares


def test_a_table_of_the_frontier_reruns_what_derives_it_and_what_reads_it(project):
    with project.edited("ghostkv/stages/frontier/tables.py", "from __future__ import annotations\n", EDIT):
        assert project.planned() == {"summarise_heads": 1, "compare_plan": 1, "report": 1}


@pytest.mark.parametrize(
    ("config", "reruns", "spares"),
    [
        ("capture={seed: 1}", {"capture_text", "sketch_layer"}, {"fetch_model", "assemble_texts"}),
        ("sketch={seed: 1}", {"sketch_layer", "sweep_layer"}, {"capture_text"}),
        ("frontier={sinks: 2}", {"sweep_layer", "report"}, {"sketch_layer", "capture_text"}),
        ("report={title: Mine}", {"report"}, {"gather_frontier", "run_historical"}),
    ],
    ids=["capture", "sketch", "frontier", "report"],
)
def test_a_config_branch_reruns_its_stage_and_what_follows(project, config, reruns, spares):
    planned = project.planned("--config", config).keys()
    assert planned >= reruns
    assert not planned & spares


def test_the_number_of_threads_reruns_nothing(project):
    assert project.planned("--config", "capture={threads: 2}") == {}
