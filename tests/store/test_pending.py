"""Reads that are begun and waited for: the rows of then, whatever happens meanwhile."""

import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ghostkv.files.errors import StoreError
from ghostkv.store import GhostStore, reads
from ghostkv.store.pending import Rooms, Runs
from tests.store.store_fixtures import CONTENTS, SHAPE, fill

TOKENS = 30  # seven segments and a tail of two


def everything(tokens=TOKENS):
    layer, kv_head = np.indices((SHAPE.layers, SHAPE.kv_heads))
    return layer, kv_head, np.arange(tokens)[:, None, None]


@pytest.mark.parametrize("threads", [1, 3, 64])
@pytest.mark.parametrize("block", [8, 64, 4096])
def test_what_is_begun_is_what_was_appended(tmp_path, threads, block):
    keys, values, _ = CONTENTS.tokens(0, TOKENS)
    with GhostStore.open(fill(tmp_path, TOKENS)) as store:
        pending = [store.begin(*everything(), block=block, threads=threads) for _ in range(5)]
        for one in pending:
            found = one.result()
            assert np.array_equal(found.keys, keys)
            assert np.array_equal(found.values, values)
            assert found.reads == store.read(*everything(), block=block).reads
            assert one.result() is found


@pytest.fixture
def gate(monkeypatch):
    """Reads of files that wait until they may."""
    opened, read_runs = threading.Event(), reads.read_runs

    def waiting(*args):
        assert opened.wait(20)
        return read_runs(*args)

    monkeypatch.setattr(reads, "read_runs", waiting)
    yield opened
    opened.set()


def test_rows_are_those_of_when_they_were_asked_for(tmp_path, gate):
    keys, values, _ = CONTENTS.tokens(0, TOKENS)
    with GhostStore.open(fill(tmp_path, TOKENS), writable=True) as store:
        pending = store.begin(*everything())
        # The tail that was asked for is sealed, and the place that it had in memory taken by others.
        store.append(*CONTENTS.tokens(TOKENS, TOKENS + 9))
        gate.set()
        found = pending.result()
    assert np.array_equal(found.keys, keys)
    assert np.array_equal(found.values, values)


def test_closing_waits_for_what_was_begun(tmp_path, gate):
    store = GhostStore.open(fill(tmp_path, TOKENS))
    pending = store.begin(*everything(), threads=2)
    closing = threading.Thread(target=store.close)
    closing.start()
    closing.join(0.05)
    assert closing.is_alive()
    gate.set()
    closing.join(20)
    assert np.array_equal(pending.result().keys, CONTENTS.tokens(0, TOKENS)[0])
    with pytest.raises(StoreError, match="closed"):
        store.begin(*everything())


@pytest.mark.parametrize("threads", [1, 4])
def test_parts_are_there_when_they_are_named_and_all_are_named_once(tmp_path, threads):
    keys, values, _ = CONTENTS.tokens(0, TOKENS)
    positions = np.random.default_rng(0).permutation(TOKENS)
    with GhostStore.open(fill(tmp_path, TOKENS)) as store:
        pending, named = store.begin(1, 1, positions, block=8, threads=threads), []
        for part in pending.parts():
            assert np.array_equal(pending.found.keys[part], keys[positions[part], 1, 1])
            assert np.array_equal(pending.found.values[part], values[positions[part], 1, 1])
            named += part.tolist()
        assert sorted(named) == list(range(TOKENS))
        assert pending.result() is pending.found


def test_parts_end_with_the_error_of_a_damaged_one_once_nothing_reads_any_more(tmp_path, gate):
    gate.set()
    fill(tmp_path, TOKENS)
    with GhostStore.open(tmp_path) as store:
        data = bytearray(store.file.read_bytes())
        data[int(store.offsets(0, 0, 2))] ^= 1
        store.file.write_bytes(data)
        pending = store.begin(*everything(), block=8, threads=6)
        with pytest.raises(StoreError, match="layer 0, KV head 0, token 2"):
            list(pending.parts())
        assert all(one.done() for one in pending._waiting)


def test_a_damaged_row_is_refused_when_its_rows_are_asked_for(tmp_path):
    fill(tmp_path, TOKENS)
    with GhostStore.open(tmp_path) as store:
        offset = int(store.offsets(1, 0, 9))
        data = bytearray(store.file.read_bytes())
        data[offset] ^= 1
        store.file.write_bytes(data)
        pending = store.begin(*everything(), block=8, threads=5)
        with pytest.raises(
            StoreError, match=f"{store.file}: at offset {offset}, .*layer 1, KV head 0, token 9"
        ):
            pending.result()
        assert store.begin(1, 0, np.arange(9)).result().keys.shape == (9, SHAPE.head_dim)
        assert store.begin(1, 0, [9], verify=False).result().keys.shape == (1, SHAPE.head_dim)


def test_a_file_that_ends_is_refused(tmp_path):
    fill(tmp_path, TOKENS)
    with GhostStore.open(tmp_path) as store:
        with open(store.file, "r+b") as file:
            file.truncate(int(store.offsets(1, 1, 20)))
        with pytest.raises(StoreError, match="the file ends"):
            store.begin(*everything(), threads=4).result()


@pytest.mark.parametrize("threads", [0, 65])
def test_threads_out_of_range_are_refused(tmp_path, threads):
    with GhostStore.open(fill(tmp_path, 5)) as store, pytest.raises(StoreError, match="threads"):
        store.begin(0, 0, [1], threads=threads)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 9), max_size=20), st.integers(1, 12))
def test_parts_are_all_of_the_runs_in_order(counts, parts):
    first = np.cumsum([0, *counts[:-1]]) + 2 * np.arange(len(counts)) if counts else np.zeros(0, np.int64)
    runs = Runs.of(first, np.array(counts, np.int64), 16, Rooms())
    found = runs.parts(parts)
    assert [number for part in found for number in part] == list(range(len(counts)))
    assert len(found) <= parts
    assert all(len(part) for part in found)
    assert len(runs.room) >= 16 * sum(counts)


def test_a_room_is_had_by_one_at_a_time_and_kept_unless_it_is_large():
    rooms = Rooms()
    one, other = rooms.take(100), rooms.take(100)
    assert one is not other
    rooms.give_back(one)
    assert rooms.take(len(one) + 1) is not one
    rooms.give_back(one)
    assert rooms.take(50) is one
    large = rooms.take((1 << 26) + 1)
    rooms.give_back(large)
    assert rooms.take(8) is not large
