"""A store that was killed keeps what it acknowledged; one that was damaged says which file, where, and what to do."""

import contextlib
import struct
import zlib

import numpy as np
import pytest

from ghostkv.files.errors import StoreError
from ghostkv.stages.store.kills import PHASES, Trials, inspect
from ghostkv.store import GhostStore, repair
from ghostkv.store.files import Files
from ghostkv.store.layout import HEADER_BYTES, LOG_FILE, LOG_START, MARK_OFFSETS, PAGE, ROWS_FILE
from tests.store.store_fixtures import CONTENTS, SHAPE, fill

# Three segments, and two tokens in the log.
TOKENS = 14


@pytest.fixture
def folder(tmp_path):
    return fill(tmp_path / "store", TOKENS)


def change(path, offset, new):
    data = bytearray(path.read_bytes())
    data[offset : offset + len(new)] = new
    path.write_bytes(bytes(data))


def flip(path, offset):
    change(path, offset, bytes([path.read_bytes()[offset] ^ 0x10]))


def refused(folder, file, remedy, offset=None, check="all"):
    """The message of the refusal, which names the file, an offset and the remedy."""
    with pytest.raises(StoreError) as caught:
        GhostStore.open(folder, check=check)
    text = str(caught.value)
    assert text.startswith(f"{folder / file}: at offset "), text
    assert remedy in text.split("\n  ")[1]
    if offset is not None:
        assert f"at offset {offset}," in text
    return text


def test_kills_at_bytes_and_from_outside_lose_nothing_acknowledged(tmp_path):
    trials = Trials(tmp_path, CONTENTS, 30, seed=1)
    rows = [*trials.at_bytes(8), *trials.after_delays(2)]
    for row in rows:
        assert row["survived"], row
        assert row["acknowledged_tokens"] <= row["recovered_tokens"] <= row["started_tokens"]
    assert [row["kind"] for row in rows] == ["byte"] * 8 + ["delay"] * 2
    assert max(row["acknowledged_tokens"] for row in rows[:8]) > 8
    assert not list(tmp_path.iterdir())


def test_every_byte_of_an_append_that_seals_a_segment_can_be_the_last(tmp_path):
    # In one process: writes stop at a byte, and the files are opened as they are then.
    class Stop(Exception):
        pass

    class Stopping(Files):
        left = None

        def write(self, descriptor, data, offset):
            view = memoryview(data).cast("B")
            if self.left is None:
                return super().write(descriptor, view, offset)
            super().write(descriptor, view[: self.left], offset)
            self.left -= len(view)
            if self.left <= 0:
                raise Stop

    seen = set()
    for limit in [*range(1, 400, 7), *range(4000, 4700, 61)]:
        files, folder = Stopping(), tmp_path / str(limit)
        store = GhostStore.create(folder, SHAPE, files=files)
        store.append(*CONTENTS.tokens(0, 3))
        files.left = limit
        with contextlib.suppress(Stop):
            store.append(*CONTENTS.tokens(3, 9))
        store.close()
        found = inspect(folder, CONTENTS, 3, 9)
        assert found["survived"], (limit, found)
        seen.add(found["recovered_tokens"])
    assert {3, 4} <= seen


def test_the_kill_experiment_notices_a_store_that_acknowledges_too_early(tmp_path, monkeypatch):
    # An experiment that cannot fail shows nothing: here the mark and the return come before the log.
    monkeypatch.setattr(GhostStore, "_acknowledge", lambda self: None)
    folder = fill(tmp_path / "store", TOKENS)
    assert inspect(folder, CONTENTS, TOKENS, TOKENS)["survived"]
    folder = fill(tmp_path / "lost", TOKENS)
    path = folder / LOG_FILE
    path.write_bytes(path.read_bytes()[:-1])
    found = inspect(folder, CONTENTS, TOKENS, TOKENS)
    assert found["readable"]
    assert found["recovered_tokens"] == TOKENS - 1
    assert not found["survived"]


@pytest.mark.parametrize("back", [1, 100, SHAPE.segment_bytes + 5])
def test_a_truncated_file_of_rows_is_refused(folder, back):
    path = folder / ROWS_FILE
    size = path.stat().st_size - back
    path.write_bytes(path.read_bytes()[:size])
    assert "reach to offset" in refused(folder, ROWS_FILE, "repair(", offset=size, check="records")


@pytest.mark.parametrize("back", [1, 40])
def test_a_truncated_log_is_refused_where_it_held_what_was_acknowledged(folder, back):
    path = folder / LOG_FILE
    path.write_bytes(path.read_bytes()[:-back])
    assert f"{TOKENS} tokens were acknowledged" in refused(folder, LOG_FILE, "repair(", check="records")


def test_a_flipped_row_is_refused_when_it_is_read_and_other_rows_are_not(folder):
    with GhostStore.open(folder) as store:
        offset = int(store.offsets(1, 0, 6))
    flip(folder / ROWS_FILE, offset + 3)
    said = f"at offset {offset}, the row of layer 1, KV head 0, token 6 does not match its checksum"
    with GhostStore.open(folder) as store:
        for call in (store.gather, store.read):
            with pytest.raises(StoreError, match=said) as caught:
                call([0, 1, 1], 0, [6, 7, 6])
            assert "repair(" in str(caught.value)
            assert call(0, 0, [6, 7])
            call(1, 0, [6], verify=False)
        with pytest.raises(StoreError, match=said):
            store.check()
    assert said in refused(folder, ROWS_FILE, "repair(")


@pytest.mark.parametrize("offset", [0, 9, 16, 40, SHAPE.heads * SHAPE.segment_tokens * 4 + 33])
def test_a_flip_in_a_segments_records_is_refused_on_opening(folder, offset):
    start = SHAPE.segment_offset(1)
    flip(folder / ROWS_FILE, start + offset)
    refused(folder, ROWS_FILE, "repair(", offset=start, check="records")


def test_segments_in_each_others_place_are_refused(folder):
    path = folder / ROWS_FILE
    first, second, third = (SHAPE.segment_offset(segment) for segment in range(3))
    data = path.read_bytes()
    path.write_bytes(data[:first] + data[second:third] + data[first:second] + data[third:])
    assert "segment 1 lies where segment 0 should" in refused(folder, ROWS_FILE, "repair(", offset=first)


def test_every_byte_of_the_log_counts_but_zeros_that_fill_words(folder):
    path = folder / LOG_FILE
    for frame in range(2):
        start = LOG_START + frame * (path.stat().st_size - LOG_START) // 2
        for offset in [*range(28), *range(32, 72), *range(72, 136, 7)]:
            flip(path, start + offset)
            refused(folder, LOG_FILE, "repair(", check="records")
            flip(path, start + offset)
        flip(path, start + 30)
        with GhostStore.open(folder) as store:
            assert CONTENTS.same(store, TOKENS)
        flip(path, start + 30)


@pytest.mark.parametrize("offset", range(HEADER_BYTES))
def test_every_byte_of_both_headers_counts(folder, offset):
    for file in (ROWS_FILE, LOG_FILE):
        path = folder / file
        flip(path, offset)
        refused(folder, file, "Restore the folder from a copy")
        flip(path, offset)
    GhostStore.open(folder, check="all").close()


@pytest.mark.parametrize(
    ("at", "value", "said"),
    [
        (8, 2, "the format is version 2"),
        (32, 0, "layers is 0"),
        (52, 9, "impossible values"),
        (56, 0, "segment_tokens is 0"),
    ],
)
def test_a_header_whose_checksum_is_right_and_whose_values_are_not(folder, at, value, said):
    path = folder / ROWS_FILE
    change(path, at, struct.pack("<I", value))
    body = path.read_bytes()[: HEADER_BYTES - 4]
    change(path, HEADER_BYTES - 4, struct.pack("<I", zlib.crc32(body)))
    assert said in refused(folder, ROWS_FILE, "the folder")


@pytest.mark.parametrize("content", [b"", b"GKVROWS\n", b"PAR1" + bytes(9000), bytes(PAGE)])
def test_a_file_that_is_no_store_is_refused(folder, content):
    (folder / ROWS_FILE).write_bytes(content)
    refused(folder, ROWS_FILE, "Restore the folder from a copy")


def test_the_log_of_another_store_is_refused(folder, tmp_path):
    other = fill(tmp_path / "other", TOKENS)
    (folder / LOG_FILE).write_bytes((other / LOG_FILE).read_bytes())
    assert "belongs to another store" in refused(folder, LOG_FILE, "repair(")


def test_one_mark_may_be_damaged_and_both_may_not(folder):
    path = folder / ROWS_FILE
    flip(path, MARK_OFFSETS[0] + 10)
    with GhostStore.open(folder) as store:
        assert CONTENTS.same(store, TOKENS)
    flip(path, MARK_OFFSETS[1] + 10)
    assert "neither mark" in refused(folder, ROWS_FILE, "folder", offset=MARK_OFFSETS[0])


def test_a_torn_frame_is_cut_by_a_writer_and_passed_over_by_a_reader(folder):
    path = folder / LOG_FILE
    whole = path.read_bytes()
    path.write_bytes(whole + whole[LOG_START : LOG_START + 50])
    with GhostStore.open(folder) as store:
        assert (store.tokens, store.cut_bytes) == (TOKENS, 50)
    assert path.stat().st_size == len(whole) + 50
    with GhostStore.open(folder, writable=True) as store:
        assert store.append(*CONTENTS.tokens(TOKENS, TOKENS + 1)) == TOKENS + 1
    with GhostStore.open(folder, check="all") as store:
        assert CONTENTS.same(store, TOKENS + 1)


def test_repair_keeps_the_whole_beginning_and_nothing_of_what_follows(folder):
    assert repair(folder) == TOKENS
    with GhostStore.open(folder) as store:
        offset = int(store.offsets(0, 1, 6))
    flip(folder / ROWS_FILE, offset)
    assert repair(folder) == 4
    with GhostStore.open(folder, writable=True, check="all") as store:
        assert CONTENTS.same(store, 4)
        store.append(*CONTENTS.tokens(4, 20))
    with GhostStore.open(folder, check="all") as store:
        assert CONTENTS.same(store, 20)


def test_a_full_disk_is_an_error_with_a_remedy_and_loses_nothing(tmp_path):
    class Full(Files):
        full = False

        def write(self, descriptor, data, offset):
            if self.full:
                super().write(descriptor, memoryview(data).cast("B")[:20], offset)
                raise OSError(28, "No space left on device")
            super().write(descriptor, data, offset)

    files = Full()
    store = GhostStore.create(tmp_path / "store", SHAPE, files=files)
    store.append(*CONTENTS.tokens(0, 6))
    files.full = True
    with pytest.raises(StoreError, match=r"(?s)refused a write \(No space left.*Make room"):
        store.append(*CONTENTS.tokens(6, 7))
    with pytest.raises(StoreError, match="an append failed before"):
        store.append(*CONTENTS.tokens(6, 7))
    store.close()
    with GhostStore.open(tmp_path / "store", writable=True) as store:
        assert store.tokens == 6
        store.append(*CONTENTS.tokens(6, 9))
        assert CONTENTS.same(store, 9)


def test_phases_name_everything_that_a_kill_can_interrupt(tmp_path):
    trials = Trials(tmp_path, CONTENTS, 24, seed=3)
    shared = trials._run(0, True, None)
    assert shared[0] == 24
    assert np.all(np.diff(shared[5 : 5 + int(shared[4])]) >= 0)
    assert len(PHASES) == len(set(PHASES))
