"""What is timed and counted on a file system that forgets pages, that keeps them, and that has no O_DIRECT."""

import os
from pathlib import Path

import numpy as np
import pytest

from ghostkv.config.bandwidth import Measure
from ghostkv.stages.bandwidth import probes as memory_probes
from ghostkv.stages.bandwidth.bench import Bench, Comparisons, disk_configurations
from ghostkv.stages.bandwidth.probes import PAGE, DiskFile
from ghostkv.stages.bandwidth.store_bench import store_configurations
from ghostkv.store.touched import bytes_read

OPTIONS = Measure(file_mb=4, block_kb=[4], depths=[1], shares=[0.1], requests=8, rounds=2, repeats=3, seed=0)
ABOUT = {"tier": "disk", "pattern": "random", "row_bytes": 256, "unit": PAGE, "instrument": "made"}
SURVIVORS = [np.arange(0, 900, 7)]
_OPEN = os.open


@pytest.fixture
def in_memory():
    """A file on a file system that keeps what it is asked to drop."""
    path = Path("/dev/shm") / f"ghostkv_test_{os.getpid()}"
    if not path.parent.is_dir():
        pytest.skip("there is no /dev/shm")
    disk = DiskFile(path, 1 << 22)
    yield disk
    disk.close()


def refuse_direct(path, flags, *more, **options):
    """`os.open` of a file system without O_DIRECT."""
    if flags & os.O_DIRECT:
        raise OSError(22, "Invalid argument")
    return _OPEN(path, flags, *more, **options)


def timed(*seconds):
    """The rows of a bench whose one configuration takes these times in turns."""
    bench = Bench(OPTIONS)
    about = {"tier": "made", "pattern": "random", "row_bytes": 64, "share": 0.5, "depth": 1}
    bench.add(about, np.zeros(1, np.int64), 64, 64, True, lambda turn: (*seconds, 0.0)[turn])
    return bench.run()


def test_an_instrument_that_saw_nothing_is_no_measurement():
    counts = Comparisons()
    for measured in (0, None):
        counts.add(ABOUT, np.zeros(1, np.int64), 10, measured)
    assert counts.rows == []
    counts.add(ABOUT, np.zeros(1, np.int64), 10, 2 * PAGE)
    assert counts.rows[0]["error"] == 0.5


def test_a_kernel_without_accounts_reads_nothing(monkeypatch):
    monkeypatch.setattr("builtins.open", lambda *a, **k: (_ for _ in ()).throw(PermissionError("no")))
    assert bytes_read() == 0


def test_a_file_system_in_memory_is_neither_counted_nor_timed_as_a_disk(in_memory):
    assert not in_memory.cold()
    counts = Comparisons()
    counts.disk(in_memory, SURVIVORS, 900, OPTIONS)
    assert counts.rows == []
    seconds, pages = in_memory.read_mapped(np.arange(0, 1 << 20, 1 << 16), 256)
    assert np.isnan(seconds)
    assert pages == 0
    bench = Bench(OPTIONS)
    disk_configurations(bench, in_memory, SURVIVORS, 900)
    assert {row["tier"] for row in bench.run()} <= {"disk_direct"}


def test_a_mapped_read_is_timed_only_where_its_pages_were_forgotten(tmp_path, monkeypatch):
    disk = DiskFile(tmp_path / "file", 1 << 22)
    if not disk.cold():
        pytest.skip("the file system of tmp_path is in memory")
    starts = np.arange(8, dtype=np.int64) * 4 * PAGE
    seconds, pages = disk.read_mapped(starts, 256)
    assert seconds > 0
    assert pages == 8
    monkeypatch.setattr(memory_probes.DiskFile, "drop", lambda self: None)
    assert np.isnan(disk.read_mapped(starts, 256)[0])
    # Pages elsewhere in the file do no harm.
    assert disk.read_mapped(starts + (1 << 21), 256)[0] > 0
    disk.close()


def test_repeats_that_were_not_cold_do_not_count():
    nan = np.nan
    assert timed(4.0, 2.0, 3.0, 5.0, 6.0, 7.0)[0]["seconds"] == 3.0
    assert timed(4.0, nan, 5.0, nan, nan, nan)[0]["seconds"] == 4.5
    assert timed(nan, nan, nan, nan, 6.0, nan)[0]["seconds_high"] == 6.0
    assert timed(*[nan] * 6) == []


def test_without_direct_reads_their_tiers_are_left_out(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(os, "open", refuse_direct)
    disk = DiskFile(tmp_path / "file", 1 << 22)
    assert not disk.direct
    bench, counts = Bench(OPTIONS), Comparisons()
    disk_configurations(bench, disk, SURVIVORS, 900)
    with store_configurations(bench, counts, tmp_path / "store", SURVIVORS, 900):
        found = {configuration.about["tier"] for configuration in bench.configurations}
    assert found == {"disk_mapped"}
    assert counts.rows == []
    assert "refuses O_DIRECT" in capsys.readouterr().out
    assert not (tmp_path / "store").exists()
    counts.disk(disk, SURVIVORS, 900, OPTIONS)
    assert {row["instrument"] for row in counts.rows} <= {"page cache (mincore)"}
    disk.close()


def test_a_flag_that_is_taken_and_a_read_that_is_refused_is_no_direct_read(tmp_path, monkeypatch):
    def refuse(*args):
        raise OSError(22, "Invalid argument")

    before = len(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(os, "preadv", refuse)
    disk = DiskFile(tmp_path / "file", 1 << 20)
    assert not disk.direct
    assert len(os.listdir("/proc/self/fd")) == before + 1
    disk.close()
