"""The chapter on decoding: LRU on the trace leads, the ceiling is no policy, a store that differs is loud."""

import itertools
import json

import polars as pl
import pytest

from ghostkv.config.experiment import Config
from ghostkv.decode_steps import LOSSES
from ghostkv.decode_tables import CEILING, MEASURES, QUANTILES, SCHEMAS
from ghostkv.io import write_table
from ghostkv.lifecycle import POLICIES
from ghostkv.report.document import Figure, Prose, Table
from ghostkv.report.headline import headline
from ghostkv.report.render import printed
from ghostkv.report.results import Results
from ghostkv.report.sections.decode import SECTION
from ghostkv.tables import table_of
from tests.report.chart_fields import fields

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
    for step in range(4):
        row = {"layer": 5, "step": step, "rows": 10, "wrong_rows": 0, "append_seconds": 0.004}
        row |= {"counted_bytes": 2560, "gathered_bytes": 2560, "gather_seconds": 0.002}
        blocks = {"block_rows_bytes": 2560, "block_bytes": 7680, "requests": 3, "block_seconds": 0.1}
        rows["store"].append(row | (blocks if step == 0 else {}))
    return rows


def write(folder, rows):
    paths = {f"decode_{name}": str(folder / f"{name}.parquet") for name in SCHEMAS}
    for name, schema in SCHEMAS.items():
        write_table(table_of(rows[name], schema), paths[f"decode_{name}"], schema)
    return Results(paths, {"config": Config().plain()})


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return write(tmp_path_factory.mktemp("decode"), make_rows())


def named(results):
    return {block.name: block for block in SECTION.build(results) if not isinstance(block, Prose)}


def prose(results):
    return " ".join(block.text for block in SECTION.build(results) if isinstance(block, Prose))


def test_tables_print_and_figures_draw_columns_that_exist(results):
    blocks = named(results)
    assert len(blocks) == 5
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
    found = headline(results, [SECTION]).items()
    assert {name.removeprefix("decode."): (one["value"], one["n"]) for name, one in found} == {
        "steps": (STEPS, 4),
        "resurrected_per_step_p99": (pytest.approx(9.5 * 1.99), 4),
        # Heads 0 to 3 of two layers: 0.025 and 0.125 in the mean, half of it the step's mean.
        "output_error_p99": (pytest.approx(0.075 / 2 * 1.99), 8),
        "re_resurrection_share": (pytest.approx(0.25), 4),
    }


def test_the_ceiling_is_a_bound_and_not_a_policy(results):
    text = prose(results)
    assert "under LRU, resurrects 9.5 a KV head" in text
    assert "The best that any choice of as many warm tokens could do on the same reads is 8.5." in text
    assert "the ceiling knows the future and is no policy" in text
    assert "The ceiling is a bound" in named(results)["decode_policies"].caption
    assert all("ceiling" not in one["source"] for one in headline(results, [SECTION]).values())


def test_the_text_says_what_is_eliminated_and_which_head_is_worst(results):
    text = prose(results)
    assert "128 steps" in text
    assert "2 layers" in text
    assert "eliminates 90.0 % of the cold keys" in text
    assert "25.0 % of them had been resurrected shortly before" in text
    assert "13.9 % on the worst (layer 5, head 3)" in text


def test_a_store_that_agrees_says_so(results):
    text = prose(results)
    assert "40 rows, none wrong; counted and gathered bytes agree; whole blocks take 3 times" in text
    assert "Median gather 2 ms a step, append 4 ms" in text


def test_wrong_rows_are_loud(tmp_path):
    rows = make_rows()
    rows["store"][1]["wrong_rows"] = 3
    assert "40 rows, **3** wrong" in prose(write(tmp_path, rows))


@pytest.mark.parametrize("changes", [(1,), (1, -1)], ids=["one step", "two steps that cancel"])
def test_bytes_that_were_not_gathered_as_counted_are_loud(tmp_path, changes):
    rows = make_rows()
    for row, change in zip(rows["store"], changes, strict=False):
        row["gathered_bytes"] += change
    assert "counted and gathered bytes **differ**" in prose(write(tmp_path, rows))


def test_a_decode_without_resurrections_has_no_share_of_them(tmp_path):
    found = headline(write(tmp_path, make_rows(quiet=True)), [SECTION])
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
    figure = headline(bare, [SECTION])["decode.output_error_p99"]
    assert (figure["value"], figure["n"]) == (None, 0)


def test_generated_decodes_stand_apart_in_the_tables(results):
    data = named(results)["decode_policies"].data
    heads = dict(data.filter(pl.col("policy") == "lru").select("source", "heads").unique().iter_rows())
    assert heads == {"trace": 4, "gaussian": 2}
