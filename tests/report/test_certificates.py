"""The chapter on certificates: misses are named, a violation is loud, the densest layer is told apart."""

import polars as pl
import pytest

from ghostkv.report.document import Figure, Prose, Table
from ghostkv.report.results import Results
from ghostkv.report.sections.certificates.section import CHAPTER
from ghostkv.stages.certificates.schemas import CONTEXT_SCHEMA
from tests.report.certificates_fixtures import certificate_tables
from tests.report.fixtures import DOMAINS, HEADS, LAYERS, _write, headline, make_params, make_tables


def write(folder, **options):
    tables = make_tables(folder)
    for name, (rows, schema) in certificate_tables(LAYERS, HEADS, DOMAINS, **options).items():
        tables[f"certificates_{name}"] = _write(folder, f"certificates/{name}", rows, schema)
    return Results(tables, make_params())


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return write(tmp_path_factory.mktemp("certificates"))


def test_every_column_of_every_table_exists(results):
    blocks = [block for block in CHAPTER.build(results) if isinstance(block, Table)]
    assert {block.name for block in blocks} >= {"certificates", "certificates_layers", "certificates_checks"}
    for block in blocks:
        assert set(block.columns) <= set(block.data.columns), block.name
        assert block.data.height > 0
    assert [block.name for block in CHAPTER.build(results) if isinstance(block, Figure)] == [
        "certificates_mass_5pct", "certificates_mass_1pct",
    ]  # fmt: skip


def test_headline_pools_the_nested_cascade_alone(results):
    figures = {name: figure["value"] for name, figure in headline(results, [CHAPTER]).items()}
    assert figures["certificates.topk.elimination"] == pytest.approx(0.97)
    assert figures["certificates.topk.bytes_ratio"] == pytest.approx(0.09)
    # Layer 0 is half as sparse: means are over both, tightness is of means.
    assert figures["certificates.mass_5pct.elimination"] == pytest.approx(0.66)
    assert figures["certificates.mass_5pct.elimination_but_densest"] == pytest.approx(0.88)
    assert figures["certificates.mass_5pct.bytes_ratio_but_densest"] == pytest.approx(0.19)
    assert figures["certificates.mass_1pct.tightness"] == pytest.approx(0.75 / 0.80)
    # Of groups that decide, beside heads that do: less is left out, and less is read.
    assert figures["certificates.mass_5pct.group.elimination"] == pytest.approx(0.8 * 0.66)
    gqa = [figures[f"certificates.mass_5pct.{name}bytes_ratio_gqa"] for name in ("", "group.")]
    assert gqa == pytest.approx([1.3 * 0.285, 1.2 * 0.285])
    assert figures["context.longest_tokens"] == 4096
    assert figures["context.topk_elimination_at_longest"] == pytest.approx(0.97)
    assert figures["context.mass_1pct_bytes_gqa_at_longest"] == pytest.approx(1.2 * 0.3 * 1.5)
    assert figures["certificates.violations"] == 0


def test_figures_at_4096_tokens_bear_the_name_of_the_model_and_leave_sliding_layers_out(results, tmp_path):
    tables = dict(make_tables(tmp_path))
    rows = pl.read_parquet(results.path("certificates.context"))
    sliding = rows.with_columns(window=pl.lit(512, pl.Int32), elimination=pl.lit(0, pl.Float32))
    tables["certificates_context"] = _write(tmp_path, "context", pl.concat([rows, sliding]), CONTEXT_SCHEMA)
    found = headline(Results(tables, make_params()), [CHAPTER])
    figures = {name: figure["value"] for name, figure in found.items() if name.startswith("made-up.")}
    assert len(figures) == 15
    for promise in ("topk", "mass_5pct", "mass_1pct", "mass_5pct.group"):
        for measure in {"elimination", "bytes_ratio_gqa", "tightness"} - {
            "tightness" if promise == "topk" else ""
        }:
            name = f"certificates.{promise}.{measure}"
            assert figures[f"made-up.{name}"] == pytest.approx(found[name]["value"]), name
    assert figures["made-up.certificates.topk.tightness"] == pytest.approx(0.97 / 0.99)
    # Imported tensors have no model whose name these could bear.
    del tables["model_manifest"]
    assert not any(
        "certificates.topk.tightness" in name for name in headline(Results(tables, make_params()), [CHAPTER])
    )


def test_the_ladder_goes_up_to_what_a_group_reads(results):
    tables = {block.name: block for block in CHAPTER.build(results) if isinstance(block, Table)}
    row = tables["certificates_ladder_5pct"].data.filter(layer="all").row(0, named=True)
    assert [row[step] for step in ("heads", "united", "together", "margin")] == pytest.approx(
        [0.5 * 0.19, 0.8 * 0.19, 0.64 * 0.19, 0.9 * 0.19]
    )
    # Layer 0 is half as sparse.
    assert row["records"] == pytest.approx(1.2 * 0.19 * 1.5)
    assert row["constants"] == pytest.approx(row["records"] + 0.07)


def test_a_violation_is_in_the_words_and_in_the_headline(tmp_path):
    broken = write(tmp_path, violations=3)
    text = next(block.text for block in CHAPTER.build(broken) if isinstance(block, Prose))
    assert "failed, so at least one proof or its rounding is wrong" in text
    assert headline(broken, [CHAPTER])["certificates.violations"]["value"] > 0
    checks = next(
        block for block in CHAPTER.build(broken) if getattr(block, "name", "") == "certificates_checks"
    )
    assert checks.data.filter(what="all")["violations"][0] > 0


def test_what_breaks_by_chance_disproves_nothing_but_the_bounds_of_k_in_full_do(tmp_path):
    for broken, counted in (((5, 0), 0), ((5, 2), 2)):
        found = write(tmp_path / f"{counted}", by_chance=broken)
        text = next(block.text for block in CHAPTER.build(found) if isinstance(block, Prose))
        assert ("at least one proof" in text) == (counted > 0)
        assert headline(found, [CHAPTER])["certificates.violations"]["value"] == counted
        tables = {block.name: block for block in CHAPTER.build(found) if isinstance(block, Table)}
        assert tables["certificates_checks"].data.filter(what="all")["violations"][0] == sum(broken)


def test_without_values_output_errors_are_left_blank(tmp_path):
    found = write(tmp_path, has_values=False)
    table = next(block for block in CHAPTER.build(found) if getattr(block, "name", "") == "certificates")
    assert table.data["output_error_mean"].null_count() == table.data.height
    kinds = next(
        block for block in CHAPTER.build(found) if getattr(block, "name", "") == "certificates_checks"
    )
    assert not kinds.data.filter(pl.col("what").str.starts_with("output")).height
