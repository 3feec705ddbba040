"""Attention over rows in memory and rows in a store: the same as over all of them, whichever lie where."""

import numpy as np
import pytest

from ghostkv.files.errors import StoreError
from ghostkv.runtime import disk_attention
from ghostkv.runtime.disk_attention import DiskAttention
from ghostkv.runtime.row_buffer import RowBuffer, widen_rows
from ghostkv.store import GhostStore, StoreShape

SINKS, HOT, TOKENS, SEGMENT = 2, 8, 150, 16


class Case:
    """A layer of generated K and V, in a store and in memory, and what its steps ask for."""

    def __init__(self, folder, seed=0, kv_heads=2, group=3, width=32, value_dim=16, softcap=0.0, rows=20):
        rng = np.random.default_rng(seed)
        self.kv_heads, self.group, self.softcap, self.rng = kv_heads, group, softcap, rng
        self.keys = rng.normal(size=(kv_heads, TOKENS, width)).astype(np.float16)
        self.values = rng.normal(size=(kv_heads, TOKENS, value_dim)).astype(np.float16)
        shape = StoreShape(2, kv_heads, width, value_dim, segment_tokens=SEGMENT)
        self.store = GhostStore.create(folder / "store", shape)
        both = [np.repeat(part.swapaxes(0, 1)[:, None], 2, axis=1) for part in (self.keys, self.values)]
        self.store.append(*both)
        self.buffer = RowBuffer((kv_heads, width, value_dim), SINKS, HOT, rows)
        self.layer = DiskAttention(self.store, 1, self.buffer, 0.3, softcap, threads=3)

    def append(self, tokens):
        part = slice(self.buffer.tokens, self.buffer.tokens + tokens)
        self.buffer.append(self.keys[:, part], self.values[:, part])

    def drawn(self, share=0.3):
        queries = self.rng.normal(size=(self.kv_heads * self.group, self.keys.shape[2])).astype(np.float32)
        cold = np.arange(SINKS, self.buffer.tokens - HOT)
        return queries, [cold[self.rng.random(len(cold)) < share] for _ in range(self.kv_heads)]

    def plainly(self, queries, survivors):
        tokens, found = self.buffer.tokens, []
        for head, query in enumerate(queries.astype(np.float64)):
            kv = head // self.group
            read = np.r_[0:SINKS, survivors[kv], tokens - HOT : tokens].astype(int)
            scores = 0.3 * self.keys[kv, read].astype(np.float64) @ query
            if self.softcap:
                scores = self.softcap * np.tanh(scores / self.softcap)
            weights = np.exp(scores - scores.max())
            found.append(weights / weights.sum() @ self.values[kv, read].astype(np.float64))
        return np.array(found)


def error(found, truth):
    return (np.linalg.norm(found - truth, axis=-1) / np.linalg.norm(truth, axis=-1)).max()


@pytest.mark.parametrize("seed", range(12))
def test_the_output_is_that_of_all_rows_at_once(tmp_path, seed):
    rng = np.random.default_rng(seed)
    case = Case(
        tmp_path, seed, kv_heads=int(rng.integers(1, 4)), group=int(rng.integers(1, 7)),
        width=int(rng.integers(3, 65)), value_dim=int(rng.integers(3, 65)), softcap=[0.0, 2.0][seed % 2], rows=int(rng.integers(0, 60)),
    )  # fmt: skip
    case.append(100)
    hits = misses = 0
    for _ in range(10):
        case.append(int(rng.integers(1, 4)))
        asked = case.drawn(rng.choice([0.05, 0.4, 1.0]))
        apart, overlapped = (case.layer.attend(*asked, overlap=overlap) for overlap in (False, True))
        assert error(overlapped.out, case.plainly(*asked)) < 1e-5
        assert error(overlapped.out, apart.out) < 1e-5
        assert overlapped.misses == apart.misses
        hits, misses = hits + sum(len(one[0]) for one in overlapped.rows), misses + overlapped.misses
        case.layer.keep(overlapped)
    assert misses > 0
    assert hits > 0 or case.buffer.rows == 0


def test_nothing_in_memory_nothing_on_disk_and_nothing_that_survives(tmp_path):
    case = Case(tmp_path, rows=0)
    case.append(TOKENS)
    asked = case.drawn()
    step = case.layer.attend(*asked)
    assert step.misses == sum(map(len, asked[1])) == step.reads.rows
    assert error(step.out, case.plainly(*asked)) < 1e-5
    none = asked[0], [np.zeros(0, np.int64)] * 2
    step = case.layer.attend(*none)
    assert (step.misses, step.reads) == (0, None)
    assert error(step.out, case.plainly(*none)) < 1e-5


def test_a_buffer_that_holds_all_reads_nothing_again(tmp_path):
    case = Case(tmp_path, rows=TOKENS)
    case.append(TOKENS - 1)
    asked = case.drawn()
    # All of the prompt is there from the start.
    step = case.layer.attend(*asked)
    assert (step.misses, step.reads) == (0, None)
    assert error(step.out, case.plainly(*asked)) < 1e-5


def test_rows_come_from_memory_once_they_were_read_and_leave_it_when_others_are(tmp_path):
    case = Case(tmp_path, rows=10, kv_heads=1)
    case.append(TOKENS)
    queries, _ = case.drawn()
    for asked, misses in (([20, 21], 2), ([20, 21], 0), (list(range(30, 40)), 10), ([20, 39], 1), ([39], 0)):
        step = case.layer.attend(queries, [np.array(asked)])
        assert step.misses == misses
        case.layer.keep(step)
    assert case.layer.attend(queries, [np.arange(141, 142)]).misses == 1


def test_a_damaged_row_leaves_no_output_and_the_buffer_as_it_was(tmp_path):
    case = Case(tmp_path, rows=20)
    case.append(TOKENS - 5)
    for _ in range(3):
        case.layer.keep(case.layer.attend(*case.drawn(0.1)))
    queries, survivors = case.drawn(0.3)
    gone = survivors[1][case.buffer.slots(1, survivors[1]) < 0]
    bad = int(gone[len(gone) // 2])
    offset = int(case.store.offsets(1, 1, bad))
    data = bytearray(case.store.file.read_bytes())
    data[offset + 40] ^= 64
    case.store.file.write_bytes(data)
    before = [
        part.copy() for part in (case.buffer.keys, case.buffer.values, case.buffer._rank, case.buffer._slot)
    ]
    for overlap in (True, False):
        with pytest.raises(StoreError, match=f"layer 1, KV head 1, token {bad} does not match"):
            case.layer.attend(queries, survivors, overlap=overlap)
    after = case.buffer.keys, case.buffer.values, case.buffer._rank, case.buffer._slot
    assert all(np.array_equal(was, now) for was, now in zip(before, after, strict=True))
    survivors[1] = survivors[1][survivors[1] != bad]
    step = case.layer.attend(queries, survivors)
    assert step.misses > 0
    assert error(step.out, case.plainly(queries, survivors)) < 1e-5


@pytest.mark.parametrize("overlap", [True, False])
def test_rows_in_memory_are_attended_while_others_are_read(tmp_path, monkeypatch, overlap):
    order, attend = [], disk_attention.attend_rows
    begin = GhostStore.begin

    def attended(*args):
        order.append("attend")
        return attend(*args)

    def begun(*args, **named):
        pending = begin(*args, **named)
        result, order[:] = pending.result, [*order, "begin"]
        pending.result = lambda: (order.append("wait"), result())[1]
        parts = pending.parts
        pending.parts = lambda: (order.append("wait"), parts())[1]
        return pending

    monkeypatch.setattr(disk_attention, "attend_rows", attended)
    monkeypatch.setattr(GhostStore, "begin", begun)
    case = Case(tmp_path, kv_heads=1)
    case.append(TOKENS)
    case.layer.attend(*case.drawn(), overlap=overlap)
    first = ["begin", "attend", "wait"] if overlap else ["begin", "wait", "attend"]
    assert order[:3] == first
    # And what was read, part after part.
    assert order.count("attend") > 2


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_rows_of_a_store_are_widened_to_the_bit(dtype):
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16).reshape(-1, 32).astype(dtype)
    chosen = np.random.default_rng(0).permutation(len(every))[:1500]
    keys, values = np.full((len(every), 16), 7, np.float32), np.full((len(every), 32), 7, np.float32)
    widen_rows(every, chosen, 9, 20, keys, values)
    for found, wanted in ((keys[:, :9], every[:, :9]), (values[:, :20], every[:, 9:29])):
        assert np.array_equal(found[chosen], wanted[chosen].astype(np.float32), equal_nan=True)
        assert np.array_equal(np.signbit(found[chosen]), np.signbit(wanted[chosen]))
    rest = np.setdiff1d(np.arange(len(every)), chosen)
    assert (keys[rest] == 7).all()
    assert (keys[:, 9:] == 7).all()
    assert (values[:, 20:] == 7).all()


def test_a_store_without_values_and_a_missing_window_are_refused(tmp_path):
    store = GhostStore.create(tmp_path / "keys", StoreShape(1, 1, 16, 0))
    with store, pytest.raises(ValueError, match="keys alone"):
        DiskAttention(store, 0, RowBuffer((1, 16, 16), 2, 8, 4), 1.0)
    with pytest.raises(ValueError, match="the window needs 1"):
        RowBuffer((1, 16, 16), 2, 0, 4)


@pytest.mark.parametrize("chunk", [1, 3, 7, 150])
def test_the_buffer_holds_sinks_window_and_the_latest_cold_rows_however_it_was_filled(tmp_path, chunk):
    case = Case(tmp_path, rows=12)
    while case.buffer.tokens < TOKENS:
        case.append(min(chunk, TOKENS - case.buffer.tokens))
        tokens = case.buffer.tokens
        exact = np.sort(case.buffer.keys[0, case.buffer.exact()], axis=0)
        own = np.r_[0 : min(SINKS, tokens), max(tokens - HOT, SINKS) : max(tokens, SINKS)]
        own = own[own < tokens].astype(int)
        assert np.array_equal(exact, np.sort(case.keys[0, own].astype(np.float32), axis=0))
        cold = np.arange(SINKS, max(tokens - HOT, SINKS))
        at = case.buffer.slots(1, cold)
        assert np.array_equal(np.flatnonzero(at >= 0), np.arange(len(cold))[-12:])
        assert np.array_equal(
            case.buffer.values[1, at[at >= 0]], case.values[1, cold[at >= 0]].astype(np.float32)
        )
