"""A slice of the survey, one architecture or two of each kind, and the page that the whole of it wrote."""

from __future__ import annotations

import re
from importlib.metadata import version
from pathlib import Path

import pytest

pytest.importorskip("torch")

from tests.survey.examine import NOT_BUILT, REFUSED, WORKS, examine  # noqa: E402
from tests.survey.page import page, read_page  # noqa: E402
from tests.survey.tiny import causal_types  # noqa: E402

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("kind", "outcome", "said"),
    [
        ("llama", WORKS, ""),
        ("gpt_neox", WORKS, ""),  # another name of the cache
        ("gemma2", WORKS, ""),  # soft caps and windows
        ("lfm2", WORKS, "layers 1, 3 of 4"),  # a hybrid
        ("mimo_v2_flash", WORKS, "layers 0 of 4"),  # values narrower than keys, sinks in windowed layers
        ("bloom", REFUSED, "attention interface"),
        ("jamba", REFUSED, "over its cache"),
        ("jetmoe", REFUSED, "other keys than those that the cache holds"),
        ("deepseek_v3", REFUSED, "other keys than those that the cache holds"),
        ("gpt_oss", REFUSED, "s_aux"),
    ],
)
def test_each_kind_is_right_or_refused_with_the_labs_own_words(kind, outcome, said, tmp_path):
    found = examine(kind, tmp_path)
    assert (found["outcome"], said in found["why"]) == (outcome, True), found
    if outcome == WORKS:
        assert max(found["blocks"], found["steps"]) <= 1e-4
    else:
        assert found["stage"] == "fetch"
    assert read_page()[1][kind] == outcome


def test_the_page_lists_what_transformers_has_and_nothing_wrong():
    pinned = re.search(
        r"^transformers==(\S+)$", (ROOT / "resources/constraints.txt").read_text(), re.MULTILINE
    )[1]
    written, outcomes = read_page()
    assert written == pinned
    assert set(outcomes.values()) <= {WORKS, REFUSED, NOT_BUILT}
    if version("transformers") == written:
        assert sorted(outcomes) == causal_types()


def test_a_page_is_read_back_as_it_was_written(tmp_path, monkeypatch):
    rows = [
        {"architecture": "a-b_1", "outcome": WORKS, "why": "layers 1, 3 of 4", "blocks": 1e-6, "steps": 2e-6},
        {"architecture": "c", "outcome": "CRASH", "why": "x | y. Accepted: z", "blocks": None, "steps": None},
    ]
    monkeypatch.setattr("tests.survey.page.PAGE", tmp_path / "page.md")
    (tmp_path / "page.md").write_text(page(rows))
    assert read_page() == (version("transformers"), {"a-b_1": WORKS, "c": "CRASH"})


def test_a_process_that_dies_is_a_line_of_the_table(monkeypatch):
    import os

    from tests.survey import __main__ as run

    monkeypatch.setattr(run, "examine", lambda kind, folder: os.kill(os.getpid(), 9))
    (found,) = run.survey(["llama"], 1)
    assert found["outcome"] == "CRASH"
