"""What holds for every selector: the budget, cold keys only, no leak of exact scores, determinism."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ghostkv.config.peers import Peers
from ghostkv.config.selectors import selector_names
from ghostkv.files.errors import CaptureError, ConfigError
from ghostkv.selectors import make
from ghostkv.selectors.base import ALONE, COMPENSATED, ONE_BUDGET
from ghostkv.selectors.picking import ThresholdHistogram, pick_top


def chosen(entry):
    return make(entry)[1]


def test_the_budget_is_never_exceeded(bench, entry, column):
    """Neither the budget, alone, nor the share of it that threshold texts gave the KV head."""
    selector = chosen(entry)
    queries = bench.measure(bench.select(selector, column=column))
    spending = bench.spending(selector, selector.fit(bench.calibration))
    own = column == ALONE or spending is None
    for r, ratio in enumerate(bench.budget.ratios if own else spending.shares):
        spent = queries["bytes_ratio_gqa"][r].mean(axis=-1)
        assert np.isnan(spent).all() or (spent <= ratio + 1e-9).all()


def test_only_cold_keys_are_read(bench, entry, column):
    reads = bench.select(chosen(entry), column=column).reads
    assert not reads[~bench.cold()].any()


def test_a_sliding_window_hides_what_lies_before_it(windowed_bench, entry, column):
    selection = windowed_bench.select(chosen(entry), column=column)
    assert not selection.reads[~windowed_bench.cold()].any()
    assert windowed_bench.scene.visible.start.max() > 2
    error = windowed_bench.measure(selection)["output_error"][-1]
    assert np.isfinite(error).all()


def test_reads_do_not_depend_on_exact_scores_of_cold_keys(bench, entry):
    selector = chosen(entry)
    before = bench.select(selector).reads.copy()
    rng = np.random.default_rng(0)
    noise = rng.normal(size=bench.truth.scores.shape).astype(np.float32) * 5
    bench.truth = replace(bench.truth, scores=np.where(bench.cold(), noise, bench.truth.scores))
    after = bench.select(selector).reads
    assert np.array_equal(before, after) == (selector.kind != "oracle")


def test_reads_do_not_depend_on_the_queries_of_the_scene_that_come_later(bench, entry, column):
    # A decision is made when its query comes; oracles and budgets that look ahead say so in their cards.
    selector = chosen(entry)
    if selector.kind == "oracle":
        pytest.skip("an oracle's p is chosen with hindsight")
    before = bench.select(selector, column=column).reads.copy()
    late = bench.scene.queries.copy()
    late[:, -1] = 100
    earlier = bench.scene.earlier.copy()
    earlier[:, -1] = np.random.default_rng(0).random(earlier.shape[2])
    after = bench.select(selector, replace(bench.scene, queries=late, earlier=earlier), column).reads
    # SparQ's index follows the components of all heads, and what a query lacks for it is paid by the others of a text.
    settled = np.uint8(0b1100 if entry["name"] == "sparq" else 0b1111)
    assert np.array_equal(before[:-1] & settled, after[:-1] & settled)


def test_the_same_inputs_give_the_same_reads(bench, entry, column):
    first = bench.select(chosen(entry), column=column)
    reads, index = first.reads.copy(), np.array(first.index_bytes)
    second = bench.select(chosen(entry), column=column)
    assert np.array_equal(reads, second.reads)
    assert np.array_equal(index, second.index_bytes)


def test_more_bytes_read_more_keys(bench, entry, column):
    selection = bench.select(chosen(entry), column=column)
    counts = [bench.read(selection, r).sum() for r in np.flatnonzero(selection.feasible)]
    assert counts == sorted(counts)
    assert len(counts) >= 2
    assert counts[-1] > counts[0]


def test_what_is_not_feasible_is_not_measured(bench, entry, column):
    selection = bench.select(chosen(entry), column=column)
    queries = bench.measure(selection)
    for r in np.flatnonzero(~selection.feasible):
        assert not bench.read(selection, r).any()
        assert all(np.isnan(values[r]).all() for values in queries.values())


def test_at_a_generous_budget_little_is_lost(bench, entry, column):
    queries = bench.measure(bench.select(chosen(entry), column=column))
    assert queries["dropped_mass"][-1].mean() < 0.3
    assert queries["output_error"][-1].mean() < 0.6


def test_compensation_changes_no_reads(bench, entry):
    selector = chosen(entry)
    if COMPENSATED not in selector.columns:
        pytest.skip("it estimates no mass")
    reads = [bench.select(selector, column=column).reads.copy() for column in (ONE_BUDGET, COMPENSATED)]
    assert np.array_equal(*reads)


def test_constants_are_those_of_the_fit(bench, entry):
    selector = chosen(entry)
    fitted = selector.fit(bench.calibration)
    constant = selector.constant_bytes(fitted, bench.scene)
    assert constant >= 0
    # What learns nothing from codec texts has nothing to keep.
    assert (constant > 0) <= (fitted is not None or selector.record_spec(16) is not None)


def test_cards_name_paper_rule_and_index(entry):
    selector = chosen(entry)
    card = sys.modules[type(selector).__module__].__doc__
    assert "Card\n----" in card
    assert "Rule:" in card
    assert "Index bytes:" in card
    assert "Paper:" in card or "Source:" in card
    assert selector.kind in {"oracle", "peer", "record"}


def test_every_selector_has_a_test_file():
    files = {path.stem.removeprefix("test_") for path in Path(__file__).parent.glob("test_*.py")}
    assert set(selector_names()) <= files


def test_the_default_selectors_can_all_be_made():
    for entry in Peers().selectors:
        make(entry.plain())


def test_an_unknown_selector_names_the_file_to_write():
    with pytest.raises(ConfigError, match="add ghostkv/selectors/telepathy.py"):
        make({"name": "telepathy"})


def test_an_unknown_hyperparameter_lists_those_that_exist():
    with pytest.raises(ConfigError, match=r"loki with rank: 8.*Accepted: dims, centred"):
        make({"name": "loki", "rank": 8})


def test_a_priority_that_is_no_number_is_refused_by_layer_and_heads(bench):
    priority = np.zeros(bench.scene.shape[1:], np.float32)
    position = bench.capture.positions[-1]
    counts = np.full((4, bench.scene.shape[1]), 5)
    # Of keys that are not cold nothing is read.
    priority[-1, position:] = np.nan
    bench.scene.take(priority, counts)
    priority[-1, position - 20] = np.nan
    for take in (
        lambda: bench.scene.take(priority, counts),
        lambda: bench.scene.take_above(priority, counts.astype(np.float32)),
    ):
        with pytest.raises(CaptureError, match=f"layer 0, heads 0 to 1: at position {position}"):
            take()


def test_picking_comes_back_whatever_it_is_given():
    rng = np.random.default_rng(0)
    counts = np.array([[[1]], [[7]], [[30]]])
    for share in (0.05, 0.5, 1.0):
        priority = rng.normal(size=(1, 1, 50)).astype(np.float32)
        priority[rng.random(priority.shape) < share] = np.nan
        pick_top(priority, counts, np.array([0]), np.array([50]), np.zeros(priority.shape, np.uint8))
    histogram = ThresholdHistogram(-1.0, 1.0, 16)
    histogram.add(np.full((1, 1, 8), np.nan, np.float32), np.array([0]), np.array([8]), np.ones(1))
    assert histogram.counts.sum() == 8
