"""The config of the tiny run on heads of 128, four on one KV head: the same bits are other bytes, and what is proved holds."""

from dataclasses import replace

import pyarrow.parquet as pq
import pytest


@pytest.mark.thorough
def test_the_same_config_runs_on_wide_heads_with_sixteen_bytes_to_one_bit(project, tmp_path):
    (tmp_path / "tests").symlink_to((project.folder / "tests").resolve())
    wide, tables = replace(project, folder=tmp_path), ("frontier/bounds", "certificates/checks")
    targets = [f"results/{name}.parquet" for name in tables]
    wide.snakemake("--config", 'model={"name": "tiny-wide"}', "--", *targets)
    found = {}
    for folder, bytes_of_code in ((project.folder, 2), (tmp_path, 16)):
        bounds, checks = (
            pq.read_table(folder / "results" / f"{name}.parquet").to_pydict() for name in tables
        )
        assert set(bounds["codec"]) == {"gaussian", "transform_code"}
        assert set(bounds["code_bytes"]) == {bytes_of_code}
        assert sum(bounds["violations"]) == sum(checks["violations"]) == 0
        found[folder] = sum(checks["checks"])
    assert min(found.values()) > 0
