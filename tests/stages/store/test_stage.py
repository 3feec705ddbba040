"""Stage `store`: kills, damage and timings small; every outcome accounted for, nothing left behind."""

from dataclasses import replace
from types import SimpleNamespace

import polars as pl
import pytest

from ghostkv.config.experiment import load_config
from ghostkv.config.store import Store
from ghostkv.files.errors import ConfigError
from ghostkv.files.io import read_metadata, read_table
from ghostkv.stages.store.damage import _part
from ghostkv.stages.store.jobs import TimeStore, TryStore
from ghostkv.stages.store.timing import time_store
from ghostkv.stages.store.trials import try_store
from ghostkv.stages.store.workload import batches
from ghostkv.store import StoreShape

SMALL = {
    "kill_points": 6, "kill_delays": 2, "kill_tokens": 34, "corruptions": 60, "gather_tokens": 512, "batches": [4, 64],
    "repeats": 2, "append_layers": 2, "append_batches": [1, 64], "append_tokens": 32,
}  # fmt: skip
CONFIG = load_config({"store": SMALL})


def run(folder):
    """Paths of the stage's tables, made by `SMALL`."""
    outputs = {name: str(folder / f"{name}.parquet") for name in (*TryStore.tables, *TimeStore.tables)}
    experiment = SimpleNamespace(config=CONFIG)
    try_store(replace(TryStore.of(experiment), code="c0de"), {}, outputs)
    time_store(replace(TimeStore.of(experiment), code="c0de"), {}, outputs)
    return outputs


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    return run(tmp_path_factory.mktemp("store"))


def test_no_acknowledged_token_is_lost_and_no_store_is_left_behind(outputs, tmp_path_factory):
    kills = read_table(outputs["kills"])
    assert kills["kind"].to_list() == ["byte"] * 6 + ["delay"] * 2
    assert kills["survived"].all()
    assert kills.filter(pl.col("recovered_tokens") < pl.col("acknowledged_tokens")).is_empty()
    assert kills.filter(pl.col("kind") == "byte")["bytes_written"].n_unique() == 6
    assert kills["fsync"].any()
    folder = tmp_path_factory.getbasetemp()
    assert not list(folder.rglob(".trial-*"))
    assert read_metadata(outputs["kills"])["fingerprint"] == "c0de"


def test_damage_is_refused_with_file_offset_and_remedy_or_did_nothing(outputs):
    found = read_table(outputs["corruptions"])
    assert found.height == 60
    assert set(found["outcome"]) <= {"refused at open", "refused at read", "harmless"}
    refused = found.filter(pl.col("outcome") != "harmless")
    assert refused.height > 30
    assert refused["named_file"].all()
    assert refused["has_remedy"].all()
    assert refused["named_offset"].null_count() == 0
    assert refused["kept_identical"].drop_nulls().all()
    # A row, a record or a log that was changed is never harmless, unless zeros were zeroed.
    assert set(found.filter(pl.col("part") == "rows")["outcome"]) <= {"refused at open", "refused at read"}
    kinds = found.filter(pl.col("kind") == "flip", pl.col("part") != "padding")
    assert (kinds["outcome"] != "harmless").all() or (kinds["part"] == "marks").any()


def test_timings_are_complete_and_consistent(outputs):
    gathers, appends = read_table(outputs["gathers"]), read_table(outputs["appends"])
    assert gathers.height == 4 * 2 * 2 * 2
    assert (gathers["seconds"] > 0).all()
    memory = gathers.filter(pl.col("method") == "memory")
    assert (memory["ratio"] == 1).all()
    row = 4 * CONFIG.store.head_dim
    assert (gathers["wanted_bytes"] == gathers["rows"] * row).all()
    assert (gathers["blocks"] * 4096 >= gathers["wanted_bytes"]).all()
    assert (gathers["requests"] <= gathers["blocks"]).all()
    clustered = pl.col("spread") == "clustered"
    assert gathers.filter(clustered)["blocks"].sum() < gathers.filter(~clustered)["blocks"].sum()
    # A batch is no larger than what is appended.
    assert set(appends["batch"]) == {1, 32}
    assert appends.height == 2 * 2 * 2
    assert appends["tokens"].unique().to_list() == [32]


def test_a_workload_appends_what_it_was_asked_for_by_single_tokens_and_by_segments():
    shape = StoreShape(1, 1, 4, 4, segment_tokens=8)
    sizes = [list(batches(shape, 200, seed)) for seed in range(10)]
    assert all(sum(part) == 200 for part in sizes)
    assert {size for part in sizes for size in part} > {1, 8, 9}
    assert max(size for part in sizes for size in part) > 2 * 8
    assert sizes[0] == list(batches(shape, 200, 0)) != sizes[1]


def test_every_offset_of_a_file_has_a_part():
    shape = StoreShape(1, 2, 4, 4, 3, segment_tokens=2)
    names = [_part(shape, "kv.bin", at) for at in (0, 1024, 500, 4096, 4096 + shape.records_bytes)]
    assert names == ["header", "marks", "padding", "records", "rows"]
    assert _part(shape, "kv.bin", 4096 + shape.segment_bytes - 1) == "padding"
    assert _part(shape, "tail.log", 0) == "log"


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"batches": [4096], "gather_tokens": 4096}, r"store\.batches asks for 4096(?s:.*)gather_tokens: 16384"),
        ({"kill_tokens": 20}, r"store\.kill_tokens is 20(?s:.*)kill_tokens: 32"),
        ({"kill_points": 0}, "kill_points"),
        ({"record_byte": 9}, "record_byte"),
    ],
)  # fmt: skip
def test_a_section_that_makes_no_sense_is_refused(section, said):
    with pytest.raises(ConfigError, match=said):
        load_config({"store": section})


def test_the_default_kills_at_a_hundred_points():
    assert Store().kill_points >= 100
