"""Two runs in one chapter: rows of either stand side by side, each with its own numbers."""

from __future__ import annotations

import polars as pl
import pytest

from ghostkv.report.document import Table
from ghostkv.report.results import Results
from ghostkv.report.sections.models import CHAPTER
from ghostkv.stages.certificates.schemas import CONTEXT_SCHEMA
from tests.report.fixtures import _write, make_params, make_tables


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """A run, and beside it one that reads twice the bytes in its one layer that sees the whole text, at twice the context."""
    folder = tmp_path_factory.mktemp("runs")
    found = make_tables(folder)
    bands = {"band_start": pl.lit(1024, pl.Int32), "band_stop": pl.lit(2048, pl.Int32)}
    own = pl.read_parquet(found["certificates_context"]).with_columns(**bands)
    found["certificates_context"] = _write(folder, "certificates/context", own, CONTEXT_SCHEMA)
    other = own.with_columns(
        window=pl.when(pl.col("layer") == 0).then(512).otherwise(0).cast(pl.Int32),
        bytes_ratio_gqa=2 * pl.col("bytes_ratio_gqa"),
    )
    found["beside_certificates"] = _write(
        folder, "beside/certificates", other, CONTEXT_SCHEMA, model="another"
    )
    return found


@pytest.fixture(scope="module")
def blocks(tables):
    results = Results(tables, make_params())
    return {block.name: block.data for block in CHAPTER.build(results) if isinstance(block, Table)}


def test_each_certificate_has_a_row_a_run_of_its_own_numbers(blocks):
    rows = blocks["models_certificates"]
    assert rows["model"].to_list() == 4 * ["made-up", "another"]
    assert rows["promise"].unique(maintain_order=True).len() == 4
    topk = rows.filter(certificate="topk")
    assert topk["bytes_ratio_gqa"].to_list() == pytest.approx([1.3 * 0.09, 2 * 1.3 * 0.09])
    assert topk["share"].to_list() == pytest.approx([0.97 / 0.99] * 2)
    # Decided by groups. Layer 0 is half as sparse as the other: it counts in the first run, and slides in the second.
    mass = rows.filter(pl.col("target").is_between(0.04, 0.06))
    assert mass["elimination"].to_list() == pytest.approx([0.75 * 0.8 * 0.88, 0.8 * 0.88])
    assert mass["bytes_ratio_gqa"].to_list() == pytest.approx([1.5 * 1.2 * 0.19, 2 * 1.2 * 0.19])


def test_points_are_of_calibrated_positions_and_of_the_same_layers(blocks, tables):
    rows = blocks["models_points"]
    assert rows["promise"].to_list() == ["FER ≤ 1 %", "FER ≤ 1 %", "dropped mass ≤ 1 %", "dropped mass ≤ 1 %"]
    assert rows["band"].unique().to_list() == ["1024–2048"]
    points = pl.read_parquet(tables["frontier_context"]).filter(
        pl.col("band_stop") == 2048, pl.col("target_metric") == "fer", pl.col("target") < 0.02
    )
    for run, layers in ((0, [0, 1]), (1, [1])):
        own = points.filter(pl.col("layer").is_in(layers))
        record, exact = (own.filter((pl.col("codec") == "exact") == is_exact) for is_exact in (False, True))
        row = rows.filter(pl.col("run") == run, pl.col("target_metric") == "fer").row(0, named=True)
        for name in ("elimination", "fer", "dropped_mass_mean", "bytes_ratio_gqa"):
            assert row[name] == pytest.approx(record[name].cast(pl.Float64).mean()), name
        assert row["oracle_elimination"] == pytest.approx(exact["elimination"].cast(pl.Float64).mean())
        assert row["share"] == pytest.approx(row["elimination"] / row["oracle_elimination"])


def test_no_chapter_without_another_run(tables):
    own = {name: path for name, path in tables.items() if not name.startswith("beside")}
    assert not all(Results(own, make_params()).has(table) for table in CHAPTER.needs)
