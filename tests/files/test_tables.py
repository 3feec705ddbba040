"""Rows and blocks of columns become one table, and files of it are joined as they are."""

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from ghostkv.files.errors import TableError
from ghostkv.files.io import read_metadata, read_table
from ghostkv.files.seals import MAY_BE_EMPTY
from ghostkv.files.tables import Tables, concatenate, write_rows

SCHEMA = pa.schema(
    [("name", pa.string()), ("head", pa.int16()), ("loss", pa.float32()), ("held", pa.bool_())],
    metadata=MAY_BE_EMPTY,
)


def test_blocks_and_rows_are_one_table_in_their_order(tmp_path):
    tables = Tables({"losses": SCHEMA, "none": SCHEMA})
    tables.add("losses", {"name": "a"}, {"head": np.array([[0], [1]]), "loss": np.array([0.5, np.nan])})
    late = {"name": "b", "head": 2, "beyond": "the schema"}
    tables.add_rows("losses", [late])
    tables.add("losses", {"name": "c", "loss": None, "held": True}, {"head": [3, 4]})
    tables.add("losses", {"head": 5.0, "held": False}, {})
    late["loss"] = 0.25  # rows may be completed until they are written
    paths = {name: str(tmp_path / f"{name}.parquet") for name in ("losses", "none")}
    tables.write(paths, {"model": "m"})
    assert read_table(paths["losses"]).rows() == [
        ("a", 0, 0.5, None), ("a", 1, None, None), ("b", 2, 0.25, None), ("c", 3, None, True), ("c", 4, None, True),
        (None, 5, None, False),
    ]  # fmt: skip
    assert read_table(paths["none"]).height == 0
    assert read_metadata(paths["none"]) == {"model": "m"}

    whole = str(tmp_path / "whole.parquet")
    concatenate([paths["losses"], paths["none"], paths["losses"]], whole, SCHEMA, {"model": "n"})
    twice = pl.concat([read_table(paths["losses"])] * 2)
    assert read_table(whole).equals(twice)
    assert pa.parquet.read_schema(whole).remove_metadata() == SCHEMA
    assert read_metadata(whole) == {"model": "n"}


def test_tables_of_two_models_are_not_joined(tmp_path):
    paths = [str(tmp_path / f"layer_{layer:02d}/losses.parquet") for layer in range(3)]
    for path, weights in zip(paths, ("a" * 64, "a" * 64, "b" * 64), strict=True):
        write_rows([{"name": "a"}], path, SCHEMA, {"weight_sha256": weights})
    concatenate(paths[:2], str(tmp_path / "all.parquet"), SCHEMA, {})
    with pytest.raises(TableError, match="layer_02/losses.parquet"):
        concatenate(paths, str(tmp_path / "all.parquet"), SCHEMA, {})
    assert read_table(tmp_path / "all.parquet").height == 2
