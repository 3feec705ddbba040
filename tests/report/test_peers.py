"""The chapter on peers: verdicts are counted as stated, losses are named, one document claims nothing."""

import polars as pl
import pytest

from ghostkv.report.document import Figure, Prose, Table
from ghostkv.report.results import Results
from ghostkv.report.sections.peers.section import CHAPTER
from tests.report.fixtures import headline, make_params
from tests.report.peers_fixtures import peer_tables


def results_of(folder, **options):
    return Results(peer_tables(folder, **options), make_params())


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return results_of(tmp_path_factory.mktemp("peers"))


def prose(results):
    return "\n".join(block.text for block in CHAPTER.build(results) if isinstance(block, Prose))


def block(results, name):
    return next(block for block in CHAPTER.build(results) if getattr(block, "name", "") == name)


def test_a_figure_and_tables_of_rivals_layers_domains_and_settings(results):
    blocks = [block for block in CHAPTER.build(results) if isinstance(block, Figure | Table)]
    assert [block.name for block in blocks] == [
        "peers_frontier", "peers_best", "peers_verdicts", "peers_choice", "peers_layers", "peers_domains", "peers_settings",
    ]  # fmt: skip
    assert all(block.data.height > 0 for block in blocks)
    for block in blocks[1:]:
        assert set(block.columns) <= set(block.data.columns), block.name


def test_the_strongest_rival_of_each_column_is_named_with_what_it_loses(results):
    best = block(results, "peers_best").data.filter(pl.col("ratio") == 0.125)
    found = {
        row["column"]: (row["selector"], row["times"], row["peers"]) for row in best.iter_rows(named=True)
    }
    assert found["alone"] == ("snapkv", pytest.approx(0.8), 3)
    # SnapKV has no such column and stands as it is alone.
    assert found["compensated"] == ("snapkv", pytest.approx(2.0), 3)
    assert "its output error is 2.00x ours" in prose(results)


def test_a_peer_that_is_better_is_named_as_that(results):
    # All documents agree to the last digit, so that nothing is chance.
    assert "Better than ours beyond chance: SnapKV at 1/16, alone" in prose(results)


def test_headline_counts_peers_and_not_settings(results):
    found = headline(results, [CHAPTER])
    values = {name: (figure["value"], figure["n"]) for name, figure in found.items()}
    assert values["peers.count"] == (4, 4)
    assert values["peers.documents"] == (3, 3)
    assert values["peers.best_rival_over_ours_1_8"] == (pytest.approx(2.0), 3)
    assert values["peers.record_alone_1_8"] == (pytest.approx(0.8), 3)
    # No row of that budget.
    assert values["peers.best_rival_over_ours_1_32"] == (None, 0)


def test_ours_is_what_threshold_texts_chose_and_not_the_best_size(results):
    figure = block(results, "peers_frontier")
    assert set(figure.data.filter(pl.col("kind") == "ours")["variant"]) == {""}
    assert "record" not in set(figure.data["kind"])
    ours = figure.data.filter(pl.col("kind") == "ours", pl.col("column") == "alone", pl.col("ratio") == 0.125)
    assert ours["mean"].item() > 0.04


def test_layers_where_a_peer_is_as_good_are_listed(results):
    assert "A peer is at least as good in 0 of 2" in block(results, "peers_layers").caption


def test_one_document_claims_nothing(tmp_path):
    single = results_of(tmp_path, domains=("prose",))
    assert "nothing is called beaten" in prose(single)
    assert block(single, "peers_best").data["times_low"].null_count() == 6
    found = headline(single, [CHAPTER])
    assert (found["peers.documents"]["value"], found["peers.documents"]["n"]) == (1, 1)


def test_captures_without_values_are_compared_by_mass_alone(tmp_path):
    bare = results_of(tmp_path, has_values=False)
    figure = next(block for block in CHAPTER.build(bare) if isinstance(block, Figure))
    assert set(figure.data["metric"]) == {"dropped_mass_mean"}
