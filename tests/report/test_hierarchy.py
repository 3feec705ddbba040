"""The chapter on hierarchies: words follow the numbers, nothing weak is called a certificate."""

import itertools

import polars as pl
import pytest

from ghostkv.config.experiment import Config
from ghostkv.files.io import write_table
from ghostkv.report.document import Figure, Prose, Table
from ghostkv.report.results import Results
from ghostkv.report.sections.hierarchy.section import CHAPTER
from ghostkv.stages.hierarchy.schemas import CHECK_SCHEMA, HEAD_SCHEMA
from ghostkv.stages.hierarchy.summary_schemas import FIT_SCHEMA
from ghostkv.stages.hierarchy.tables import fits
from tests.report.fixtures import headline, make_params


def head_rows(reads, context):
    """Three heads in each of two layers: reads over flat as given for two indexes, the last is the cheap one."""
    rows = []
    texts = (
        ("threshold", "t", 4096),
        ("held_out", "a", 1024),
        ("held_out", "b", 4096),
        ("trace", "c", context),
    )
    for (role, text, tokens), layer, head, index in itertools.product(
        texts, (0, 1), (0, 1, 2), ("wide", "cheap")
    ):
        ratio = reads[head] if index == "wide" else 0.95
        row = {"layer": layer, "head": head, "kv_head": 0, "text": text, "domain": "prose", "role": role}
        row |= {"context": tokens, "certificate": "topk", "target": 0.0, "index": index, "mode": "grown"}
        row |= {"chosen_for_reads": index == "wide", "chosen_for_bytes": index == "cheap", "queries": 4}
        row |= {
            "keys": tokens - 50.0,
            "anchor_bytes": 256.0,
            "anchors": 10.0,
            "records": 20.0,
            "level_ratio": 1.0,
        }
        row |= {"reads": ratio * (tokens - 50), "flat_reads": tokens - 50.0, "reads_ratio": ratio}
        row |= {
            "scan_ratio": 3.0 if index == "wide" else 0.9,
            "bytes_ratio": 0.3 if index == "wide" else 0.09,
        }
        row |= {
            "flat_bytes_ratio": 0.1,
            "bytes_ratio_gqa": 0.3,
            "flat_bytes_ratio_gqa": 0.1,
            "elimination": 0.98,
        }
        row |= {"flat_elimination": 0.98, "fer": 0.0, "share": 1.0, "violations": 0}
        rows.append(row)
        if role == "trace" and index == "wide":
            unknown = dict.fromkeys(
                ("level_ratio", "scan_ratio", "bytes_ratio_gqa", "flat_bytes_ratio_gqa", "fer")
            )
            rows.append(row | {"mode": "appended", "reads_ratio": 0.9})
            rows.append(row | {"certificate": "mass", "target": 0.05} | unknown)
            weaker = {
                "certificate": "calibrated",
                "target": 0.01,
                "chosen_for_reads": False,
                "reads_ratio": 0.2,
            }
            rows.append(row | weaker | {"fer": 0.004, "share": 0.3, "scan_ratio": 0.5})
    return rows


def write(folder, reads=(0.4, 0.45, 0.8), violations=0, context=8192):
    heads = pl.DataFrame(head_rows(reads, context), infer_schema_length=None)
    check = {
        "layer": 0,
        "kv_head": 0,
        "text": "c",
        "context": 8192,
        "index": "wide",
        "mode": "grown",
        "bound": "wide",
    }
    checks = [
        check | {"what": what, "checks": 500, "violations": 0} for what in ("leaf", "coarse", "topk", "mass")
    ]
    checks[0]["violations"] = violations
    tables = {
        "heads": (heads, HEAD_SCHEMA),
        "checks": (pl.DataFrame(checks), CHECK_SCHEMA),
        "fits": (fits(heads), FIT_SCHEMA),
    }
    paths = {f"hierarchy_{name}": str(folder / f"{name}.parquet") for name in tables}
    for name, (table, schema) in tables.items():
        write_table(table, paths[f"hierarchy_{name}"], schema)
    return Results(paths, make_params(config=Config().plain()))


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return write(tmp_path_factory.mktemp("hierarchy"))


def prose(results):
    return " ".join(block.text for block in CHAPTER.build(results) if isinstance(block, Prose))


def test_every_column_of_every_table_exists(results):
    blocks = CHAPTER.build(results)
    for block in blocks:
        if isinstance(block, Table):
            assert set(block.columns) <= set(block.data.columns), block.name
            assert block.data.height > 0
    assert [block.name for block in blocks if isinstance(block, Figure)] == [
        "hierarchy_reads", "hierarchy_bytes", "hierarchy_layers",
    ]  # fmt: skip


def test_headline_counts_the_chosen_index_on_the_trace_alone(results):
    figures = headline(results, [CHAPTER])
    found = {name.removeprefix("hierarchy."): figure["value"] for name, figure in figures.items()}
    assert found["heads_reading_under_half_at_8k"] == pytest.approx(2 / 3)
    assert found["reads_ratio_at_8k"] == pytest.approx(0.55)
    assert found["heads_cheaper_in_bytes_at_8k"] == 1
    assert found["statistical_heads_reading_under_half_at_8k"] == 1
    assert found["statistical_fer_at_8k"] == pytest.approx(0.004)
    assert found["violations"] == 0
    assert figures["hierarchy.violations"]["n"] == 2000
    assert figures["hierarchy.heads_reading_under_half_at_8k"]["n"] == 6


def test_the_words_count_the_heads_that_read_less_than_half(results, tmp_path):
    assert "66.7 % of the heads read less than half" in prose(results)
    assert " 0.0 % of the heads read less than half" in prose(write(tmp_path, reads=(0.6, 0.7, 0.8)))


def test_a_violation_is_loud(tmp_path):
    broken = write(tmp_path, violations=7)
    assert "**7 failed**" in prose(broken)
    table = next(block for block in CHAPTER.build(broken) if getattr(block, "name", "") == "hierarchy_checks")
    assert table.data["violations"].sum() == 7


def test_a_shorter_trace_is_not_called_8k(tmp_path):
    figures = headline(write(tmp_path, context=512), [CHAPTER])
    assert figures["hierarchy.heads_reading_under_half_at_8k"]["value"] is None


def test_the_statistical_variant_is_labelled_as_weaker(results):
    text = prose(results)
    assert "*Statistical variant*, weaker" in text
    table = next(
        block for block in CHAPTER.build(results) if getattr(block, "name", "") == "hierarchy_indexes"
    )
    weak = table.data.filter(pl.col("certificate") == "statistical")
    assert weak.height == 1
    assert weak["fer"][0] == pytest.approx(0.004)
