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


def test_a_figure_and_tables_of_verdicts_layers_domains_and_settings(results):
    blocks = [block for block in CHAPTER.build(results) if isinstance(block, Figure | Table)]
    assert [block.name for block in blocks] == [
        "peers_frontier", "peers_verdicts", "peers_layers", "peers_domains", "peers_variants",
    ]  # fmt: skip
    assert all(block.data.height > 0 for block in blocks)
    for block in blocks[1:]:
        assert set(block.columns) <= set(block.data.columns), block.name


def test_a_peer_that_drops_less_mass_is_named_as_not_beaten(results):
    text = prose(results)
    assert "than 1 of 3 peers, intervals not overlapping" in text
    assert "Not beaten at 1/8: PQ (lower dropped mass than ours)" in text


def test_headline_counts_peers_and_not_settings(results):
    found = headline(results, [CHAPTER])
    values = {name: (figure["value"], figure["n"]) for name, figure in found.items()}
    assert values["peers.count"] == (3, 3)
    # Loki is not feasible, so two peers are measured; one of them drops less mass.
    assert values["peers.beaten_at_1_8"] == (1, 2)
    assert values["peers.beaten_at_1_4"] == (1, 2)


def test_peers_are_held_against_the_first_of_ours_and_not_the_best(results):
    table = next(block for block in CHAPTER.build(results) if getattr(block, "name", "") == "peers_verdicts")
    assert table.data["ours_output_error"].drop_nulls().min() > 0.02
    figure = next(block for block in CHAPTER.build(results) if isinstance(block, Figure))
    assert set(figure.data.filter(pl.col("kind") == "ours")["variant"]) == {"bits=1.0"}
    assert "extended" not in set(figure.data["kind"])


def test_layers_where_a_peer_is_as_good_are_listed(results):
    table = next(block for block in CHAPTER.build(results) if getattr(block, "name", "") == "peers_layers")
    assert "in dropped mass a peer is at least as good in 2 of 2 (layers 0, 1)" in table.caption
    assert "in output error a peer is at least as good in 0 of 2" in table.caption


def test_one_document_claims_nothing(tmp_path):
    single = results_of(tmp_path, domains=("prose",))
    assert "no interval exists" in prose(single)
    assert "nothing is called beaten" in prose(single)
    found = headline(single, [CHAPTER])
    assert (found["peers.beaten_at_1_8"]["value"], found["peers.beaten_at_1_8"]["n"]) == (None, 0)


def test_captures_without_values_are_compared_by_mass_alone(tmp_path):
    bare = results_of(tmp_path, has_values=False)
    figure = next(block for block in CHAPTER.build(bare) if isinstance(block, Figure))
    assert set(figure.data["metric"]) == {"dropped_mass_mean"}
