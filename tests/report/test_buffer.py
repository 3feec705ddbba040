"""The chapter on the hot buffer: means of sums, the worst head, the smallest requests, and times as they are."""

import pytest

from ghostkv.config.experiment import Config
from ghostkv.files.io import write_table
from ghostkv.files.tables import table_of
from ghostkv.report.document import Figure, Prose, Table
from ghostkv.report.render import printed
from ghostkv.report.results import Results
from ghostkv.report.sections.buffer.section import CHAPTER
from ghostkv.stages.decode.schemas import BUFFER_SCHEMA, OVERLAP_SCHEMA
from tests.report.chart_fields import fields
from tests.report.fixtures import headline, make_params


def buffer_row(source, layer, kv_head, asked, buffer):
    """A request of survivors asks for 100 rows, or 300 of the second KV head; misses halve as the buffer doubles."""
    rows = float(asked or (300 if kv_head else 100))
    misses = rows * (0.8 if kv_head else 0.4) * 16 / buffer + (1000 if source != "trace" else 0)
    row = {"source": source, "layer": layer, "kv_head": kv_head, "request": "top_k" if asked else "survivors"}
    row |= {"asked": asked, "buffer": buffer, "steps": 64, "rows": rows, "misses": misses}
    row |= {"misses_p99": 2 * misses, "misses_max": int(3 * misses), "first_reads": misses / 4}
    return row | ({"least_misses": misses / 2} if kv_head == 0 else {})


def overlap_row(source, buffer, step, slower=1.0):
    row = {
        "layer": 5,
        "source": source,
        "buffer": buffer,
        "threads": 8,
        "step": step,
        "held": 100,
        "misses": 64,
    }
    row |= {"requests": 40, "read_bytes": 4_000_000, "error": 1e-6 * step}
    seconds = {"serial": 8.0, "apart": 3.0 * slower, "overlapped": 2.0, "read": 1.0, "held": 0.5}
    seconds |= {"device": 0.8, "stream": 0.4, "block": 0.1, "copy": 0.25}
    return row | {f"{name}_seconds": spent / 1e3 for name, spent in seconds.items()}


def write(folder, buffers=None, overlap=None):
    if buffers is None:
        buffers = [
            buffer_row(source, layer, kv_head, asked, buffer)
            for source, layers in (("trace", (0, 5)), ("gaussian", (0,)))
            for layer in layers
            for kv_head in (0, 1)
            for asked in (None, 16, 32)
            for buffer in (32, 64, 128)
        ]
    if overlap is None:
        overlap = [overlap_row(source, 32, step) for source in ("device", "page cache") for step in (1, 2, 3)]
    for name, rows, schema in (("buffers", buffers, BUFFER_SCHEMA), ("overlap", overlap, OVERLAP_SCHEMA)):
        write_table(table_of(rows, schema), folder / f"{name}.parquet", schema)
    paths = {f"decode_{name}": str(folder / f"{name}.parquet") for name in ("buffers", "overlap")}
    return Results(paths, make_params(config=Config().plain()))


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return write(tmp_path_factory.mktemp("buffer"))


def named(results):
    return {block.name: block for block in CHAPTER.build(results) if not isinstance(block, Prose)}


def prose(results):
    return " ".join(block.text for block in CHAPTER.build(results) if isinstance(block, Prose))


def test_tables_print_and_figures_draw_columns_that_exist(results):
    blocks = named(results)
    assert list(blocks) == [
        "buffer_misses",
        "buffer_table",
        "buffer_layers",
        "buffer_overlap",
        "buffer_overlap_table",
    ]
    for block in blocks.values():
        assert block.data.height > 0
        if isinstance(block, Table):
            assert len(printed(block).rows) == block.data.height
        if isinstance(block, Figure):
            assert fields(block.chart.to_dict()) <= set(block.data.columns), block.name


def test_shares_are_of_sums_over_the_trace_and_the_worst_head_stands_beside(results):
    rows = named(results)["buffer_misses"].data.rows_by_key(
        ["label", "buffer", "of"], named=True, unique=True
    )
    # Both heads ask for 16, and miss 0.4 and 0.8 of them with 16 rows, half of that with 32.
    assert rows["best 16", 32, "all KV heads"]["rate"] == pytest.approx(0.3)
    assert rows["best 16", 32, "worst KV head"]["rate"] == pytest.approx(0.4)
    # 100 rows and 300 rows.
    assert rows["survivors", 64, "all KV heads"]["rate"] == pytest.approx((100 * 0.1 + 300 * 0.2) / 400)
    assert len(rows) == 3 * 3 * 2
    assert not any("gaussian" in str(row) for row in rows.values())


def test_the_table_has_both_sources_the_trace_first_and_the_bound_on_the_heads_that_have_one(results):
    data = named(results)["buffer_table"].data
    assert data["source"].to_list() == ["trace"] * 9 + ["gaussian"] * 9
    row = data.row(0, named=True)
    assert (row["label"], row["buffer"], row["heads"]) == ("best 16", 32, 4)
    assert (row["misses"], row["bounded_misses"], row["least_misses"]) == pytest.approx((4.8, 3.2, 1.6))
    assert (row["misses_p99"], row["worst"], row["first_reads"]) == pytest.approx((9.6, 12.8, 1.2))


def test_layers_show_the_smallest_requests_head_by_head(results):
    data = named(results)["buffer_layers"].data
    assert set(data["asked"]) == {16}
    assert data.height == 4 * 3
    assert data.filter(layer=5, kv_head=1, buffer=64)["rate"].item() == pytest.approx(0.2)


def test_the_headline_is_the_smallest_requests_by_multiples_and_the_gain_past_the_cache(results):
    found = headline(results, [CHAPTER])
    assert {name.removeprefix("decode."): (one["value"], one["n"]) for name, one in found.items()} == {
        "buffer_miss_rate_2x": (pytest.approx(0.3), 4),
        "buffer_miss_rate_4x": (pytest.approx(0.15), 4),
        "buffer_miss_rate_8x": (pytest.approx(0.075), 4),
        "overlap_error": (pytest.approx(3e-6), 6),
        "overlap_gain": (pytest.approx(1.5), 3),
    }


def test_the_text_says_what_is_missed_and_what_waiting_costs(results):
    text = prose(results)
    assert "64 steps of 4 KV heads" in text
    assert (
        "Requests of 16 rows miss 30.0 % with a buffer of 2 times as many (40.0 % on the worst KV head)"
        in text
    )
    assert "Layer 5 was decoded" in text
    assert "at most 3.0e-06" in text
    assert (
        "past the page cache (O_DIRECT), a step takes 1.50x as long where attention waits for all reads, and 4.00x"
        in text
    )


def test_times_are_medians_and_rates_are_of_the_bytes_read(results):
    row = named(results)["buffer_overlap_table"].data.row(0, named=True)
    assert (row["source"], row["timed"], row["serial"], row["overlapped"]) == ("device", 3, 8.0, 2.0)
    assert (row["read_rate"], row["device_rate"], row["stream_rate"]) == pytest.approx((4.0, 5.0, 10.0))
    assert (row["held"], row["held_time"], row["copy"]) == (100.0, 0.5, 0.25)
    assert set(named(results)["buffer_overlap"].data["way"]) == {"serial", "apart", "overlapped", "device"}


def test_what_was_not_timed_is_said(tmp_path):
    text = prose(write(tmp_path, overlap=[overlap_row("page cache", 32, 1)]))
    assert "no O_DIRECT, so reads from the device were not timed" in text
    bare = write(tmp_path, overlap=[])
    assert "no step was timed" in prose(bare)
    assert "buffer_overlap" not in named(bare)
    assert headline(bare, [CHAPTER])["decode.overlap_gain"]["value"] is None


def test_steps_that_lack_nothing_have_no_reads(tmp_path):
    full = overlap_row("device", 4096, 1) | {"misses": 0, "requests": 0, "read_bytes": 0}
    full |= dict.fromkeys(("read_seconds", "device_seconds", "stream_seconds", "block_seconds"))
    results = write(tmp_path, overlap=[full])
    assert named(results)["buffer_overlap_table"].data["read_rate"].null_count() == 1
    assert "device" not in set(named(results)["buffer_overlap"].data["way"])
    assert "takes" not in prose(results)
