"""The chapter of others' tables, and its headline figures."""

import polars as pl
import pytest

from ghostkv.report.results import Results
from ghostkv.report.sections.reproduce import CHAPTER
from ghostkv.stages.reproduce.errors import METHODS, board
from ghostkv.stages.reproduce.louver.indexes import FAIR, PUBLISHED
from ghostkv.stages.reproduce.schemas import (
    BOARD_SCHEMA,
    CHARACTER_SCHEMA,
    ERROR_SCHEMA,
    PREDECESSOR_SCHEMA,
    RECALL_SCHEMA,
)
from tests.report.fixtures import _write, headline, make_params

# Top-p and top-k have changed places; vAttention is not on the board.
ERRORS = {
    "oracle_topp": 0.09, "oracle_topk": 0.08, "pqcache": 0.12, "quest": 0.2, "double_sparsity": 0.25, "magicpig": 0.3, "vattention": 0.05,
}  # fmt: skip


def reproduced(folder, predecessor=True) -> Results:
    about = {"text": "a", "domain": "a"}
    recall = [
        about
        | {
            "protocol": protocol,
            "method": method.name,
            "k": k,
            "layer": 1,
            "queries": 30,
            "recall": 0.9,
            "candidates": k / 100,
        }
        | {"bytes_ratio": 0.5, "theirs": 0.8 if protocol == "published" and method.name == "louver" else None}
        for protocol, methods in (("published", PUBLISHED), ("fair", FAIR))
        for method in methods
        for k in (10, 20)
    ]
    errors = [
        about | {"frame": "scaled", "method": method.name, "variant": "", "setting": 0.1, "calls": 4, "density": 0.1}
        | {"error": ERRORS[method.name]}
        for method in METHODS
    ]  # fmt: skip
    cell = {"tokens": 512, "layer": 0, "head": 4, "sketch_dim": 16, "theta": 0.5, "ours": 0.5}
    rows = [
        cell | {"measure": "rank_correlation", "theirs": 0.49999, "difference": 1e-5, "undecided": False},
        cell | {"measure": "top8_overlap", "theirs": 0.375, "difference": 0.125, "undecided": True},
    ]
    foretold = [
        {
            "text": text,
            "domain": "a",
            "context": 90,
            "tokens": 10,
            "characters": 40,
            "components": components,
            "bits": bits + more,
        }
        | {"bytes_ratio_gqa": 0.3, "theirs": 0.8 if components is None else 0.9}
        for text, more in (("a", 0.0), ("b", 0.5))
        for components, bits in ((None, 1.0), (16, 1.25 + more))
    ]
    empty = pl.from_arrow(PREDECESSOR_SCHEMA.empty_table())
    tables = {
        "reproduce_recall": _write(folder, "reproduce/recall", recall, RECALL_SCHEMA),
        "reproduce_errors": _write(folder, "reproduce/errors", errors, ERROR_SCHEMA),
        "reproduce_board": _write(folder, "reproduce/board", list(board(errors, [0.1])), BOARD_SCHEMA),
        "reproduce_predecessor": _write(
            folder, "reproduce/predecessor", rows if predecessor else empty, PREDECESSOR_SCHEMA
        ),
        "reproduce_characters": _write(folder, "reproduce/characters", foretold, CHARACTER_SCHEMA),
    }
    results = Results(tables, make_params())
    results.figures = headline(results, [CHAPTER])
    return results


def test_headline_figures_are_the_order_and_what_files_decide(tmp_path):
    figures = reproduced(tmp_path).figures
    value = {
        name: (figure["value"], figure["n"])
        for name, figure in figures.items()
        if name.startswith("reproduce.")
    }
    assert value["reproduce.skylight_spearman"] == (pytest.approx(1 - 6 * 2 / 210), 6)
    assert value["reproduce.predecessor_max_difference"] == (1e-5, 1)
    assert value["reproduce.predecessor_undecided"] == (1, 2)
    assert value["reproduce.louver_recall_difference"] == (pytest.approx(0.1), 2)
    assert value["reproduce.louver_candidates"] == (pytest.approx(0.1), 30)


def test_the_chapter_shows_each_table_with_its_n(tmp_path):
    prose, *tables = CHAPTER.build(reproduced(tmp_path))
    assert [table.name for table in tables] == [
        "reproduce_recall", "reproduce_recall_fair", "reproduce_errors", "reproduce_characters", "reproduce_predecessor"
    ]  # fmt: skip
    for table in tables:
        assert any(column.label.startswith("n ") for column in table.columns.values())
        assert set(table.columns) <= set(table.data.columns)
    errors = tables[2].data
    assert errors.filter(source="board")["method"].to_list() == list(ERRORS)[:6]
    assert errors["why"].null_count() == 0
    assert "0.943" in prose.text
    dense, sparse = tables[3].data.iter_rows(named=True)
    # Losses of .25 and .75 over two texts: Student's quantile of one degree of freedom is 12.7.
    assert (dense["loss"], sparse["loss"], sparse["their_loss"]) == pytest.approx((0, 0.5, 0.1))
    assert sparse["half"] == pytest.approx(0.25 * 12.706, rel=1e-4)
    assert (sparse["texts"], sparse["characters"]) == (2, 80)


def test_without_the_predecessors_files_its_table_is_left_out(tmp_path):
    results = reproduced(tmp_path, predecessor=False)
    assert [block.name for block in CHAPTER.build(results)[1:]] == [
        "reproduce_recall",
        "reproduce_recall_fair",
        "reproduce_errors",
        "reproduce_characters",
    ]
    assert results.figures["reproduce.predecessor_max_difference"]["value"] is None
