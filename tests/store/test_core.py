"""GhostStore: gives back the bits that it was given, after any sequence of appends and reopenings, and takes nothing
else for them."""

import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ghostkv.files.errors import StoreError
from ghostkv.stages.store.kills import fork
from ghostkv.store import GhostStore, StoreShape
from tests.store.store_fixtures import CONTENTS, SHAPE, fill


class AgainstADict(RuleBasedStateMachine):
    """A store beside a dict of rows; the store is closed, abandoned and reopened at will."""

    @initialize(
        shape=st.builds(
            StoreShape, st.integers(1, 2), st.integers(1, 3), st.integers(1, 9), st.integers(0, 5),
            st.integers(0, 4), st.sampled_from(["float16", "float32"]), st.integers(1, 6),
        ),
        fsync=st.booleans(),
    )  # fmt: skip
    def create(self, shape, fsync):
        self.place = tempfile.TemporaryDirectory()
        self.shape, self.fsync, self.model, self.copies = shape, fsync, {}, 0
        self.store = GhostStore.create(Path(self.place.name) / "store", shape, fsync)

    def teardown(self):
        if hasattr(self, "store"):
            self.store.close()
            self.place.cleanup()

    @rule(tokens=st.integers(0, 14), seed=st.integers(0, 2**32 - 1))
    def append(self, tokens, seed):
        rng, outer = np.random.default_rng(seed), (tokens, self.shape.layers, self.shape.kv_heads)
        dtype = np.dtype(self.shape.dtype)

        def drawn(width):
            # Any bits: a NaN must come back as the NaN that it was.
            return rng.integers(0, 256, (*outer, width * dtype.itemsize), np.uint8).view(dtype)

        keys = drawn(self.shape.head_dim)
        values = drawn(self.shape.value_dim) if self.shape.value_dim else None
        width = self.shape.record_bytes
        records = rng.integers(0, 256, (*outer, width), np.uint8) if width else None
        before = len(self.model)
        assert self.store.append(keys, values, records) == before + tokens
        for step in range(tokens):
            parts = (keys, values, records)
            self.model[before + step] = tuple(None if part is None else part[step] for part in parts)

    @rule(clean=st.booleans(), check=st.sampled_from(["records", "all"]))
    def reopen(self, clean, check):
        if clean:
            self.store.close()
            self.store = GhostStore.open(self.store.folder, True, self.fsync, check=check)
        else:
            # As a kill between two appends leaves it: a copy of the files of a store that was not closed.
            copy = self.store.folder.with_name(f"copy-{self.copies}")
            self.copies += 1
            shutil.copytree(self.store.folder, copy)
            self.store.close()
            self.store = GhostStore.open(copy, True, self.fsync, check=check)
        assert self.store.cut_bytes == 0

    @precondition(lambda self: self.model)
    @rule(seed=st.integers(0, 2**32 - 1), count=st.integers(0, 9), gap=st.integers(0, 3))
    def gather(self, seed, count, gap):
        rng = np.random.default_rng(seed)
        layer, head = (rng.integers(0, size, count) for size in (self.shape.layers, self.shape.kv_heads))
        at = rng.integers(0, len(self.model), count)
        block = int(rng.choice([64, 512, 4096]))
        with GhostStore.open(self.store.folder) as reader:
            for store in (self.store, reader):
                found = store.read(layer, head, at, block=block, gap=gap)
                for keys, values in (store.gather(layer, head, at), (found.keys, found.values)):
                    for row, (which, of, token) in enumerate(zip(layer, head, at, strict=True)):
                        assert keys[row].tobytes() == self.model[token][0][which, of].tobytes()
                        if values is not None:
                            assert values[row].tobytes() == self.model[token][1][which, of].tobytes()
                assert found.reads == store.plan(layer, head, at, block=block, gap=gap)
                assert found.reads.wanted_bytes <= found.reads.bytes

    @invariant()
    def holds_what_was_acknowledged(self):
        if not hasattr(self, "store"):
            return
        assert self.store.tokens == len(self.store) == len(self.model)
        assert 0 <= self.store.tokens - self.store.sealed < self.shape.segment_tokens
        for layer in range(self.shape.layers):
            for head in range(self.shape.kv_heads):
                held = self.store.records(layer, head)
                assert held.shape == (len(self.model), self.shape.record_bytes)
                if self.shape.record_bytes and self.model:
                    assert np.array_equal(held, [row[2][layer, head] for row in self.model.values()])


TestAgainstADict = AgainstADict.TestCase
TestAgainstADict.settings = settings(max_examples=30, stateful_step_count=10, deadline=None)


@given(st.lists(st.integers(0, 12), max_size=12), st.sampled_from([64, 256, 4096]), st.integers(0, 4))
@settings(max_examples=60, deadline=None)
def test_planned_blocks_are_those_that_hold_the_rows(filled, positions, block, gap):
    # By brute force: the set of blocks that any byte of any row lies in.
    with GhostStore.open(filled) as store:
        plan, wide = (store.plan(1, 0, positions, block=block, gap=g) for g in (0, gap))
        rows = {int(at) for at in store.offsets(1, 0, positions) if at >= 0}
        touched = {byte // block for at in rows for byte in range(at, at + store.shape.row_bytes)}
    assert (plan.blocks, plan.bytes) == (len(touched), len(touched) * block)
    assert plan.requests == sum(number - 1 not in touched for number in touched)
    assert plan.memory_rows == sum(position >= 12 for position in positions)
    assert wide.requests <= plan.requests
    assert wide.bytes >= plan.bytes


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """Three segments and a token; read only."""
    return fill(tmp_path_factory.mktemp("store") / "store", 13)


def test_a_wrong_dtype_or_shape_is_refused_and_nothing_is_appended(tmp_path):
    keys, values, records = CONTENTS.tokens(0, 3)
    wrong = {
        "keys has dtype float32": (keys.astype(np.float32), values, records),
        "keys has dtype float16 and shape": (keys[..., :2], values, records),
        "values has dtype NoneType": (keys, None, records),
        r"values has dtype float16 and shape \(2,": (keys, values[:2], records),
        "records has dtype int8": (keys, values, records.astype(np.int8)),
        "keys has dtype float16 and shape \\(2, 3": (keys.transpose(1, 0, 2, 3), values, records),
        "keys has dtype list": (keys.tolist(), values, records),
    }
    with GhostStore.create(tmp_path / "store", SHAPE) as store:
        for said, batch in wrong.items():
            with pytest.raises(StoreError, match=said) as caught:
                store.append(*batch)
            assert "Accepted: " in str(caught.value)
            assert "Write: " in str(caught.value)
        assert store.append(keys, values, records) == 3
        assert CONTENTS.same(store, 3)


@pytest.mark.parametrize(
    "where", [(2, 0, 0), (0, -1, 0), (0, 0, 13), (0, 0, [-1]), (0, 0, 1.5), (0, 0, [True])]
)
def test_an_index_outside_the_store_is_refused(filled, where):
    with GhostStore.open(filled) as store:
        for call in (store.gather, store.read, store.plan, store.offsets):
            with pytest.raises(StoreError, match="Accepted: whole numbers"):
                call(*where)


@pytest.mark.parametrize(
    ("field", "value"), [("layers", 0), ("head_dim", 1.5), ("segment_tokens", 2**16), ("dtype", "int8")]
)
def test_an_impossible_shape_is_refused(field, value):
    options = {"layers": 1, "kv_heads": 1, "head_dim": 4, "value_dim": 4} | {field: value}
    with pytest.raises(StoreError, match=f"StoreShape: {field} is"):
        StoreShape(**options)


def test_a_second_writer_is_refused_in_this_process_and_in_another(tmp_path):
    folder = fill(tmp_path / "store", 5)
    with GhostStore.open(folder, writable=True) as store:
        with pytest.raises(StoreError, match="another writer has this store open"):
            GhostStore.open(folder, writable=True)

        def other():
            try:
                GhostStore.open(folder, writable=True)
            except StoreError:
                os._exit(7)

        assert os.waitstatus_to_exitcode(os.waitpid(fork(other), 0)[1]) == 7
        assert store.append(*CONTENTS.tokens(5, 6)) == 6
    GhostStore.open(folder, writable=True).close()


def test_a_reader_sees_a_snapshot_while_another_appends(tmp_path):
    folder = fill(tmp_path / "store", 3)
    with GhostStore.open(folder, writable=True) as writer, GhostStore.open(folder) as reader:
        writer.append(*CONTENTS.tokens(3, 11))
        assert (reader.tokens, writer.tokens) == (3, 11)
        assert CONTENTS.same(reader, 3)
        with GhostStore.open(folder) as later:
            assert CONTENTS.same(later, 11)


def test_a_store_open_for_reading_takes_nothing_and_changes_no_byte(tmp_path):
    folder = fill(tmp_path / "store", 6)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    for path in folder.iterdir():
        path.chmod(0o444)
    with GhostStore.open(folder, check="all") as store:
        with pytest.raises(StoreError, match="open for reading"):
            store.append(*CONTENTS.tokens(6, 7))
        with pytest.raises(ValueError, match="read-only"):
            store.records(0, 0)[0] = 0
        assert CONTENTS.same(store, 6)
    assert before == {path.name: path.read_bytes() for path in folder.iterdir()}


def test_create_does_not_touch_a_store_that_is_there(filled):
    with pytest.raises(StoreError, match="there is a store already"):
        GhostStore.create(filled, SHAPE)
    with GhostStore.open(filled) as store:
        assert CONTENTS.same(store, 13)


def test_a_folder_without_a_store_and_a_closed_store_say_what_to_write(tmp_path):
    with pytest.raises(StoreError, match=r"(?s)kv.bin: no store.*write: GhostStore.create"):
        GhostStore.open(tmp_path / "nothing")
    store = GhostStore.create(tmp_path / "store", SHAPE)
    store.close()
    store.close()
    with pytest.raises(StoreError, match="the store was closed"):
        store.append(*CONTENTS.tokens(0, 1))
    with pytest.raises(StoreError, match="check is 'most'"):
        GhostStore.open(tmp_path / "store", check="most")


def test_mapped_and_direct_reads_are_the_same_rows(tmp_path):
    with GhostStore.open(fill(tmp_path / "store", 26), writable=True) as store:
        assert CONTENTS.same(store, 26)
        try:
            found = store.read(1, 1, np.arange(26), direct=True)
        except StoreError as error:
            pytest.skip(str(error))
        assert np.array_equal(found.keys, CONTENTS.tokens(0, 26)[0][:, 1, 1])
        with pytest.raises(StoreError, match="multiples of 4096"):
            store.read(0, 0, [0], block=512, direct=True)
