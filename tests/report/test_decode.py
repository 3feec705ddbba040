"""The chapter on decoding: LRU on the trace leads, the ceiling is no policy, a store that differs is loud."""

import itertools
import json

import polars as pl
import pytest

from ghostkv.config.experiment import Config
from ghostkv.files.io import write_table
from ghostkv.files.tables import table_of
from ghostkv.report.document import Figure, Prose, Table
from ghostkv.report.render import printed
from ghostkv.report.results import Results
from ghostkv.report.sections.decode.section import CHAPTER
from ghostkv.stages.decode.lifecycle import POLICIES
from ghostkv.stages.decode.schemas import MEASURES, QUANTILES, SCHEMAS
from ghostkv.stages.decode.steps import LOSSES
from ghostkv.stages.decode.tables import CEILING
from tests.report.chart_fields import fields
from tests.report.fixtures import headline, make_params

STEPS = 128
# Resurrected a step: what generated tensors give would be seen in any mean.
RESURRECTED = {"age": 8.0, "lru": 4.0, "attention": 5.0, CEILING: 3.0}
SOURCES = {"trace": (0, 5), "gaussian": (0,)}


def level(policy, source, layer, kv_head):
    """Mean resurrections; 0, 1, 10, 11 more by layer and KV head."""
    return RESURRECTED[policy] + 2 * layer + kv_head + 1000 * (source != "trace")


def values(policy, back, quiet):
    """Measures of a step; the ceiling has but a few."""
    back = 0.0 if quiet else back
    found = dict.fromkeys(MEASURES, 1.0) | {"cold": 1000.0, "eliminated": 900.0, "survivors": 100.0}
    found |= {"hits": 100 - back, "resurrected": back, "from_archive": back / 2, "re_resurrected": back / 4}
    few = ("cold", "eliminated", "survivors", "hits", "resurrected", "from_archive")
    return {name: found[name] for name in few} if policy == CEILING else found


def spread(about, measure, mean, steps=STEPS):
    quantiles = {name: mean * (1 + share) for name, share in QUANTILES.items()}
    return about | {"measure": measure, "steps": steps, "mean": mean} | quantiles


BUDGETS = (0.0625, 0.125, 0.25)


def budgeted(source, policy, budget, number, kv_head):
    """100 survivors a step; 10, 20 and 30 hits by budget, one more under LRU, 10 more for the ceiling."""
    hits = 10.0 * (number + 1) + {"lru": 1, CEILING: 10}.get(policy, 0)
    slots, back = int(budget * 1024), 100 - hits
    row = {
        "source": source,
        "layer": 5,
        "kv_head": kv_head,
        "policy": policy,
        "budget": budget,
        "slots": slots,
    }
    row |= {
        "budget_bytes": 256 * slots,
        "steps": STEPS,
        "survivors": 100.0,
        "hits": hits,
        "resurrected": back,
    }
    row |= {
        "resurrected_p99": 2 * back + kv_head,
        "from_archive": 1.0,
        "disk_read": 256.0,
        "outside_read": 256 * back,
    }
    alone = {"re_resurrected": back / 2, "slow_read": 256 * (back - 1)}
    return row | {"outside_read_p99": 600 * back} | (alone if policy != CEILING else {})


def make_rows(quiet=False, losses=LOSSES):
    rows = {name: [] for name in SCHEMAS}
    for source, layers in SOURCES.items():
        for layer, kv_head in itertools.product(layers, (0, 1)):
            where = {"source": source, "layer": layer}
            # A generated decode is longer: its steps must not lead.
            steps = STEPS * (1 if source == "trace" else 9)
            for policy in (*POLICIES, CEILING):
                about = where | {"kv_head": kv_head, "policy": policy}
                found = values(policy, level(policy, source, layer, kv_head), quiet)
                rows["spread"] += [spread(about, name, mean, steps) for name, mean in found.items()]
                rows["steps"] += [about | {"step": step, "steps": 64} | found for step in (0, 64)]
            for head, loss in itertools.product((2 * kv_head, 2 * kv_head + 1), losses):
                error = 0.01 * (1 + head) + 0.1 * (layer == 5) + 7.0 * (source != "trace")
                rows["losses"].append(spread(where | {"head": head}, loss, error / 2))
                of = where | {"head": head, "measure": loss, "steps": 64}
                bins = [{"step": step, "mean": error / 2, "p99": error, "max": 2 * error} for step in (0, 64)]
                rows["loss_steps"] += [of | one for one in bins]
    for source, policy, (number, budget) in itertools.product(
        SOURCES, (*POLICIES, CEILING), enumerate(BUDGETS)
    ):
        rows["budgets"] += [budgeted(source, policy, budget, number, kv_head) for kv_head in (0, 1)]
    for step in range(4):
        row = {"layer": 5, "policy": "lru", "step": step, "rows": 10, "wrong_rows": 0}
        row |= {"append_seconds": 0.004, "gather_seconds": 0.002}
        # The second step has nothing on disk, the last two were not read from there.
        disk = {
            "archived_rows": 2,
            "archived_wrong_rows": 0,
            "archived_bytes": 2048,
            "direct": True,
            "requests": 2,
        }
        disk |= {"counted_bytes": 8192, "read_bytes": 8192, "archive_seconds": 0.1}
        rows["store"].append(row | [disk, {"archived_rows": 0}, disk, {}][step])
    return rows


def write(folder, rows):
    paths = {f"decode_{name}": str(folder / f"{name}.parquet") for name in SCHEMAS}
    for name, schema in SCHEMAS.items():
        write_table(table_of(rows[name], schema), paths[f"decode_{name}"], schema)
    return Results(paths, make_params(config=Config().plain()))


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return write(tmp_path_factory.mktemp("decode"), make_rows())


def named(results):
    return {block.name: block for block in CHAPTER.build(results) if not isinstance(block, Prose)}


def prose(results):
    return " ".join(block.text for block in CHAPTER.build(results) if isinstance(block, Prose))


def test_tables_print_and_figures_draw_columns_that_exist(results):
    blocks = named(results)
    assert len(blocks) == 13
    for block in blocks.values():
        assert block.data.height > 0
        if isinstance(block, Table):
            assert len(printed(block).rows) == block.data.height
        if isinstance(block, Figure):
            assert fields(block.chart.to_dict()) <= set(block.data.columns), block.name


def test_figures_are_means_over_the_trace_alone(results):
    blocks = named(results)
    steps = blocks["decode_steps"].data
    assert steps.height == 4 * 2
    # Layers 0 and 5, KV heads 0 and 1: 0, 1, 10 and 11 above the policy's own level.
    for policy, step, back in steps.select("policy", "step", "resurrected").iter_rows():
        assert back == pytest.approx(RESURRECTED[policy] + 5.5), (policy, step)
    layers = {row["layer"]: row for row in blocks["decode_layers"].data.iter_rows(named=True) if row["policy"] == "lru"}  # fmt: skip
    assert (layers[0]["mean"], layers[5]["mean"]) == pytest.approx((4.5, 14.5))
    assert layers[5]["p99"] == pytest.approx(14.5 * 1.99)
    assert layers[5]["max"] == pytest.approx(15 * 2)
    losses = blocks["decode_losses"].data
    assert losses.height == len(LOSSES) * 4 * 2 * 4
    assert losses["value"].max() == pytest.approx(0.14)


def test_every_policy_has_a_colour(results):
    for name in ("decode_steps", "decode_layers"):
        spec = named(results)[name].chart.to_dict()
        assert set(spec["encoding"]["color"]["scale"]["domain"]) == {*POLICIES, CEILING}


def test_the_headline_is_lru_on_the_trace(results):
    found = headline(results, [CHAPTER]).items()
    assert {name.removeprefix("decode."): (one["value"], one["n"]) for name, one in found} == {
        "steps": (STEPS, 4),
        "resurrected_per_step_p99": (pytest.approx(9.5 * 1.99), 4),
        # Heads 0 to 3 of two layers: 0.025 and 0.125 in the mean, half of it the step's mean.
        "output_error_p99": (pytest.approx(0.075 / 2 * 1.99), 8),
        "re_resurrection_share": (pytest.approx(0.25), 4),
        "disk_bytes_agreement": (1.0, 2),
    }


def test_the_ceiling_is_a_bound_and_not_a_policy(results):
    text = prose(results)
    assert "under LRU, resurrects 9.5 a KV head" in text
    assert "The best that any choice of as many warm tokens could do on the same reads is 8.5." in text
    assert "the ceiling knows the future and is no policy" in text
    assert "The ceiling is a bound" in named(results)["decode_policies"].caption
    assert all("ceiling" not in one["source"] for one in headline(results, [CHAPTER]).values())


def test_the_text_says_what_is_eliminated_and_which_head_is_worst(results):
    text = prose(results)
    assert "128 steps" in text
    assert "2 layers" in text
    assert "eliminates 90.0 % of the cold keys" in text
    assert "25.0 % of them had been resurrected shortly before" in text
    assert "13.9 % on the worst (layer 5, head 3)" in text


def test_a_store_that_agrees_says_so(results):
    text = prose(results)
    assert "40 rows, none wrong. Median gather 2 ms a step, append 4 ms" in text
    assert "What LRU had on disk alone was read past the page cache at 2 steps: 4 rows, none wrong" in text
    assert "counted: 0.0164 MB, 4 times the bytes of the rows; median 100 ms a step" in text
    assert "0.0164 MB were read, to the byte what was counted at 100 % of these steps" in text


@pytest.mark.parametrize("column", ["wrong_rows", "archived_wrong_rows"])
def test_wrong_rows_are_loud(tmp_path, column):
    rows = make_rows()
    rows["store"][2][column] = 3
    assert "rows, **3** wrong" in prose(write(tmp_path, rows))


@pytest.mark.parametrize("changes", [(1,), (1, -1)], ids=["one step", "two steps that cancel"])
def test_bytes_that_were_not_read_as_counted_are_loud(tmp_path, changes):
    rows = make_rows()
    for row, change in zip(rows["store"][::2], changes, strict=False):
        row["read_bytes"] += change
    results = write(tmp_path, rows)
    share = 1 - len(changes) / 2
    assert f"what was counted at **only {100 * share:.1f} %** of these steps" in prose(results)
    assert headline(results, [CHAPTER])["decode.disk_bytes_agreement"]["value"] == share


@pytest.mark.parametrize(
    ("direct", "said"),
    [(True, "past the page cache at 2 steps"), (False, "through the map at 2 steps")],
    ids=["no account", "no O_DIRECT"],
)
def test_bytes_that_nobody_counted_are_said_to_be_unknown(tmp_path, direct, said):
    rows = make_rows()
    for row in rows["store"][::2]:
        row |= {"direct": direct, "read_bytes": None}
    results = write(tmp_path, rows)
    assert said in prose(results)
    assert "the bytes that were really read are not known" in prose(results)
    assert "to the byte" not in prose(results)
    figure = headline(results, [CHAPTER])["decode.disk_bytes_agreement"]
    assert (figure["value"], figure["n"]) == (None, 0)


def test_a_policy_that_needs_no_disk_says_so(tmp_path):
    rows = make_rows()
    for row in rows["store"][::2]:
        row.update(
            dict.fromkeys(row.keys() - {"layer", "policy", "step", "rows", "wrong_rows"}), archived_rows=0
        )
    assert "LRU had nothing on disk alone that was read" in prose(write(tmp_path, rows))


def test_eliminated_keys_are_those_of_the_trace(results):
    blocks = named(results)
    figure = blocks["decode_eliminated"].data
    assert set(figure["share"]) == {0.9}
    assert set(figure["step"]) == {0, 64}
    table = {row["source"]: row for row in blocks["decode_eliminated_table"].data.iter_rows(named=True)}
    assert (table["trace"]["heads"], table["trace"]["share"], table["trace"]["lowest"]) == (4, 0.9, 0.9)
    assert table["gaussian"]["heads"] == 2


def test_the_head_that_eliminates_least_is_shown(tmp_path):
    rows = make_rows()
    for row in rows["steps"] + [one for one in rows["spread"] if one["measure"] == "eliminated"]:
        if (row["source"], row["layer"], row["kv_head"]) == ("trace", 5, 1):
            row |= {"eliminated": 100.0, "mean": 100.0}
    blocks = named(write(tmp_path, rows))
    lowest = blocks["decode_eliminated"].data.filter(pl.col("of") == "lowest KV head")
    assert set(lowest["share"]) == {0.1}
    trace = blocks["decode_eliminated_table"].data.filter(pl.col("source") == "trace").row(0, named=True)
    assert (trace["share"], trace["lowest"]) == (pytest.approx(0.7), 0.1)


def test_bytes_by_tier_have_mean_p99_and_the_worst_head(tmp_path):
    rows = make_rows()
    for row in rows["spread"]:
        if row["measure"] == "slow_read" and row["source"] == "trace":
            row |= {"mean": 1000.0, "p99": 2000.0 + 4000.0 * (row["layer"] == 5 and row["kv_head"] == 1)}
    blocks = named(write(tmp_path, rows))
    data = blocks["decode_bytes_table"].data
    assert data.height == len(POLICIES) * 9
    row = data.filter(pl.col("policy") == "lru", pl.col("what") == "read", pl.col("tier") == "slow").row(
        0, named=True
    )
    assert (row["mean"], row["p99"], row["worst"]) == pytest.approx((1.0, 3.0, 6.0))
    assert blocks["decode_states"].data.height == len(POLICIES) * 7
    chart = blocks["decode_bytes"].data
    assert set(chart["policy"]) == set(POLICIES)
    assert chart.height == len(POLICIES) * 3 * 2
    assert set(chart["kilobytes"]) == {0.001}


def test_policies_by_budget_lead_with_the_trace_and_the_ceiling_has_no_re_resurrections(results):
    blocks = named(results)
    table = blocks["decode_budgets_table"].data
    assert table["source"].to_list() == ["trace"] * 12 + ["gaussian"] * 12
    row = table.filter(pl.col("source") == "trace", pl.col("policy") == "lru", pl.col("budget") == 0.25).row(
        0, named=True
    )
    assert (row["heads"], row["hit_share"], row["again_share"]) == (
        2,
        pytest.approx(0.31),
        pytest.approx(0.5),
    )
    assert (row["worst"], row["outside_kilobytes"], row["kilobytes"]) == pytest.approx((139, 17.664, 65.536))
    assert table.filter(pl.col("policy") == "ceiling")["again_share"].null_count() == 6
    data = blocks["decode_budgets"].data
    assert data.filter(pl.col("policy") == "ceiling").height == 2 * len(BUDGETS)
    assert data.filter(pl.col("policy") == "age").height == 3 * len(BUDGETS)


def test_losses_along_the_steps_show_the_worst_head(results):
    data = named(results)["decode_loss_steps"].data
    assert set(data["loss"]) == {"lost mass", "output error", "output error, not compensated"}
    first = data.filter(pl.col("loss") == "lost mass", pl.col("step") == 0)
    # Heads 0 to 3 of two layers: p99 of 0.01 to 0.04 and 0.11 to 0.14.
    assert dict(first.select("line", "value").iter_rows()) == pytest.approx(
        {"mean": 0.0375, "p99": 0.075, "p99, worst head": 0.14}
    )


def test_a_decode_without_resurrections_has_no_share_of_them(tmp_path):
    found = headline(write(tmp_path, make_rows(quiet=True)), [CHAPTER])
    assert found["decode.re_resurrection_share"]["value"] is None
    assert found["decode.resurrected_per_step_p99"]["value"] == 0
    # As the report writes it.
    json.dumps(found, allow_nan=False)


def test_captures_without_values_have_neither_errors_nor_a_store(tmp_path):
    bare = write(tmp_path, make_rows(losses=("lost_mass",)) | {"store": []})
    text = prose(bare)
    assert "Output error" not in text
    assert "real store" not in text
    assert set(named(bare)["decode_losses_table"].data["measure"]) == {"lost mass"}
    figure = headline(bare, [CHAPTER])["decode.output_error_p99"]
    assert (figure["value"], figure["n"]) == (None, 0)


def test_generated_decodes_stand_apart_in_the_tables(results):
    data = named(results)["decode_policies"].data
    heads = dict(data.filter(pl.col("policy") == "lru").select("source", "heads").unique().iter_rows())
    assert heads == {"trace": 4, "gaussian": 2}
