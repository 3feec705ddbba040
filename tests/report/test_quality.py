"""The chapter on quality: a gate that is missed says so, and nothing is quoted beyond the byte budget."""

import re

import polars as pl
import pytest

from ghostkv.report.document import Figure, Prose, Table
from ghostkv.report.render import printed
from ghostkv.report.results import Results
from ghostkv.report.sections.answer import _in_the_loop
from ghostkv.report.sections.quality.figures import FLOOR, bytes_figure
from ghostkv.report.sections.quality.section import CHAPTER
from tests.report.chart_fields import fields
from tests.report.fixtures import headline
from tests.report.quality_fixtures import POLICIES, START, changed, make_rows, write


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return write(tmp_path_factory.mktemp("quality"), make_rows())


def named(results):
    return {block.name: block for block in CHAPTER.build(results) if not isinstance(block, Prose)}


def lines(results):
    """What is told of each: identity, mass, budget."""
    text = next(block.text for block in CHAPTER.build(results) if isinstance(block, Prose))
    told = {
        "budget": r"same position\. (`.*)\. Certified",
        "mass": r"Certified mass ≤ 1 %: (.*)\.\n\n",
        "identity": r"With elimination off (.*)\. Intervals",
    }
    return {name: re.search(pattern, text)[1] for name, pattern in told.items()}


def test_tables_print_and_figures_draw_columns_that_exist(results):
    blocks = named(results)
    assert len(blocks) == 8
    for block in blocks.values():
        assert block.data.height > 0
        if isinstance(block, Table):
            assert len(printed(block).rows) == block.data.height
        if isinstance(block, Figure):
            spec = block.chart.to_dict()
            held = {name for rows in spec["datasets"].values() for name in rows[0]}
            assert fields(spec) <= held, block.name


def test_figures_show_what_their_titles_say(results):
    blocks = named(results)
    bytes_ = bytes_figure(results)
    assert sorted(bytes_.data["policy"]) == sorted(set(POLICIES) - {"identity"})
    assert bytes_.data["kl"].min() == FLOOR
    positions = blocks["quality_positions"].data
    # Quest's budget that is nearest in bytes; two bands of 32 positions in each text.
    assert set(positions["policy"]) == {"ghost_029", "quest_016"}
    ours = positions.filter(pl.col("policy") == "ghost_029", pl.col("domain") == "code")
    assert ours["from"].to_list() == [START, START + 32]
    assert ours["kl"].to_list() == pytest.approx([0.002, 0.004 + 0.001 / 32])
    assert blocks["quality_layers"].data["layers"].to_list() == ["0-4", "5-9"] * 2


def test_the_headline_is_the_summary_over_all_texts(results):
    found = headline(results, [CHAPTER]).items()
    assert {name.removeprefix("quality."): (one["value"], one["n"]) for name, one in found} == {
        "certificates_violated": (0.0, 128),
        "identity.max_logit_difference": (2e-5, 128),
        "mass_1pct.kl": (5e-4, 128),
        "mass_1pct.top1": (0.99, 128),
        "at_030.kl": (0.002, 128),
        "at_030.top1": (0.99, 128),
        "at_030.bytes_ratio_gqa": (0.29, 128),
        "quantised.kl": (1e-4, 128),
        "quantised.top1": (0.99, 128),
        "quantised.bytes_ratio_gqa": (0.54, 128),
        "stacked.kl": (7e-4, 128),
        "stacked.top1": (0.99, 128),
        "stacked.bytes_ratio_gqa": (0.14, 128),
        "best_rival": ("quest", 128),
        "best_rival_kl_ratio": (8.0, 128),
    }


def test_beyond_the_budget_nothing_is_quoted_for_it(tmp_path):
    rows = make_rows()
    for row in rows["summary"] + rows["equal_bytes"]:
        row["bytes_ratio_gqa"] += 0.02 * (row["policy"] == "ghost_029")
    found = headline(write(tmp_path, rows), [CHAPTER])
    quoted = {name: one for name, one in found.items() if ".at_030." in name}
    assert len(quoted) == 3
    assert all((one["value"], one["n"]) == (None, 0) for one in quoted.values())
    assert found["quality.mass_1pct.kl"]["value"] == 5e-4


@pytest.mark.parametrize(
    ("line", "where", "column", "value", "told"),
    [
        ("identity", ("summary", {"role": "identity"}), "max_logit_difference", 1.1e-4, "1.1e-04"),
        ("identity", ("identity", {}), "step_difference", 2.1e-4, "step 2.1e-04"),
        ("mass", ("summary", {"role": "mass"}), "kl", 3e-3, "KL 3.0e-03"),
        ("budget", ("summary", {"role": "budget"}), "top1", 0.95, "top-1 95.0 %"),
        ("budget", ("equal_bytes", {"role": "budget", "against": "quest"}), "kl_ratio", 4.9, "4.90x below Quest, the strongest rival"),
    ],
)  # fmt: skip
def test_each_line_tells_what_was_measured(tmp_path, line, where, column, value, told):
    assert told in lines(changed(tmp_path, *where, **{column: value}))[line]


def test_beyond_the_bytes_of_the_peer_nothing_is_compared(tmp_path):
    rows = make_rows()
    for row in rows["equal_bytes"]:
        row |= dict.fromkeys(("their_kl", "their_top1", "kl_ratio", "kl_ratio_low", "kl_ratio_high"))
    found = write(tmp_path, rows)
    assert "– below any rival" in lines(found)["budget"]
    assert "quality_equal_bytes" not in named(found)


def test_intervals_stand_where_there_are_any(results, tmp_path):
    assert (
        "8.00x below Quest, the strongest rival, at equal bytes (95 % interval 7.00x to 9.00x)"
        in lines(results)["budget"]
    )
    bare = changed(tmp_path, "equal_bytes", {}, kl_ratio_low=None, kl_ratio_high=None)
    assert lines(bare)["budget"].endswith("8.00x below Quest, the strongest rival, at equal bytes")
    assert "–" in {cell for row in printed(named(bare)["quality_equal_bytes"]).rows for cell in row}


def test_what_was_not_run_has_no_block(tmp_path):
    empty = dict.fromkeys(("ablation", "generations", "equal_bytes"), [])
    blocks = named(write(tmp_path, make_rows() | empty))
    assert set(blocks) == {f"quality_{x}" for x in ("policies", "dense", "positions", "domains", "worst")}


def test_dense_heads_are_listed_by_policy(tmp_path, results):
    rows = {row["policy"]: row for row in named(results)["quality_dense"].data.iter_rows(named=True)}
    assert set(rows) == {"calibrated_1pct"}
    assert rows["calibrated_1pct"] == {"policy": "calibrated_1pct", "count": 1, "which": "0/2", "most": 1.02}
    none = named(write(tmp_path, make_rows() | {"dense": []}))["quality_dense"].data
    assert none.rows() == [("calibrated_1pct", 0, "none", None)]


def test_without_policies_of_the_headline_nothing_is_told_of_them(tmp_path):
    told = lines(changed(tmp_path, "summary", {}, role=None))
    assert all("–" in told[name] for name in ("identity", "mass", "budget"))
    assert "None" not in "".join(told.values())


def test_one_domain_is_shown_as_all(tmp_path):
    rows = make_rows(domains=("prose",))
    rows["summary"] = [row for row in rows["summary"] if row["domain"] == "all"]
    domains = named(write(tmp_path, rows))["quality_domains"].data
    assert domains.select("policy", "domain").rows() == [
        (x, "all") for x in ("identity", "mass_1pct", "ghost_029")
    ]


def test_the_worst_positions_are_those_of_the_budget_policy_with_tokens_quoted(results):
    worst = named(results)["quality_worst"]
    assert "`ghost_029`" in worst.caption
    assert worst.data.height == 12
    assert worst.data["position"].to_list()[:2] == [START + 63] * 2
    assert printed(worst).rows[0][3:6] == ["'a|b'", r"'\n'", "–"]
    assert set(named(results)["quality_generations"].data["output"]) == {"one / two"}


def test_the_answer_quotes_the_model_in_the_loop_where_it_was_run(results, tmp_path):
    (said,) = _in_the_loop(results)
    for piece in ("reads 0.290 of", "99.0 %", "128 positions", "2.0e-03 nats", "8.00x below Quest"):
        assert piece in said, piece
    assert _in_the_loop(Results({}, results.job)) == []
