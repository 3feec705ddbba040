"""The kill experiment: SIGKILL an append workload anywhere, open what is left, compare with what was
acknowledged."""

from __future__ import annotations

import mmap
import os
import shutil
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ghostkv.files.errors import DISK_FULL, StoreError
from ghostkv.files.io import stable_seed
from ghostkv.stages.store.workload import Contents, batches
from ghostkv.store import GhostStore
from ghostkv.store.files import Files
from ghostkv.store.layout import LOG_FILE, PAGE, ROWS_FILE

# What a kill interrupted, by number, as the child leaves it in shared memory before it dies.
PHASES = ("between", "create", "log", "segment", "mark", "empty_log", "sync")
_ACKNOWLEDGED, _STARTED, _SPENT, _PHASE, _CALLED, _FIELDS = range(6)
# Every third store waits for the disk; to the page cache, which a kill leaves alone, it makes no difference. Odd,
# so that kills aimed at bytes and at calls, which alternate, both meet such stores.
_FSYNC_EVERY = 3
# Kills from outside fall within so many seconds of the fork; a workload of any length goes on for longer.
_LONGEST_DELAY = 0.03
_ENDLESS = 10**6
# Calls of a workload that are told apart, so that a kill may be aimed at one of them.
_CALLS = 4096


class KillingFiles(Files):
    """Writes that end in a SIGKILL of the own process after `limit` bytes; every call of another kind counts as one.

    How far it came is left in `shared`, int64; a limit beyond all that is written counts it.
    """

    def __init__(self, shared: np.ndarray, limit: int):
        self.shared, self.limit = shared, limit

    def write(self, descriptor: int, data, offset: int) -> None:
        view = memoryview(data).cast("B")
        self.shared[_PHASE] = _phase_of(descriptor, offset)
        room = self.limit - int(self.shared[_SPENT])
        part = view[: min(len(view), room)]
        super().write(descriptor, part, offset)
        self.shared[_SPENT] += len(part)
        self._note()
        if room <= len(view):
            os.kill(os.getpid(), signal.SIGKILL)
        self.shared[_PHASE] = 0

    def truncate(self, descriptor: int, size: int) -> None:
        self._count("empty_log")
        super().truncate(descriptor, size)

    def sync(self, descriptor: int) -> None:
        self._count("sync")
        super().sync(descriptor)

    def _count(self, phase: str) -> None:
        self.shared[_SPENT] += 1
        self._note()
        if self.shared[_SPENT] >= self.limit:
            self.shared[_PHASE] = PHASES.index(phase)
            os.kill(os.getpid(), signal.SIGKILL)

    def _note(self) -> None:
        """Where this call ended; the first free place is the number of calls."""
        calls = int(self.shared[_CALLED])
        if calls < _CALLS:
            self.shared[_FIELDS + calls] = self.shared[_SPENT]
            self.shared[_CALLED] = calls + 1


@dataclass(frozen=True)
class Trials:
    """Kills of one workload."""

    folder: Path  # where stores are made and removed; on the disk whose behaviour is asked for
    contents: Contents
    tokens: int  # tokens of the workload that is killed at a byte
    seed: int

    def at_bytes(self, count: int) -> Iterator[dict]:
        """Kill at `count` random places of all that the workload does, from the first byte of the header on.

        Every other one is a random byte of all, most of which are segments; the others a random byte of a random
        call, so that short writes, truncations and waits for the disk are met as often as long ones.
        """
        for point in range(count):
            fsync = point % _FSYNC_EVERY == 0
            whole = self._run(point, fsync, None)
            ends = whole[_FIELDS : _FIELDS + int(whole[_CALLED])]
            # Stratified: the kills spread over all of the workload.
            rng = np.random.default_rng(stable_seed("kill", self.seed, point))
            place = (point + rng.random()) / count
            limit = 1 + int(place * (int(whole[_SPENT]) - 1))
            if point % 2:
                call = int(place * len(ends))
                limit = int(rng.integers(int(ends[call - 1]) if call else 0, int(ends[call]))) + 1
            yield {"kind": "byte", "point": point, "planned": limit, "delay": None} | self._trial(
                point, fsync, limit
            )

    def after_delays(self, count: int) -> Iterator[dict]:
        """Kill from outside, after `count` random times."""
        for point in range(count):
            delay = _LONGEST_DELAY * np.random.default_rng(stable_seed("delay", self.seed, point)).random()
            found = self._trial(point, point % _FSYNC_EVERY == 0, None, delay)
            yield {"kind": "delay", "point": point, "planned": None, "delay": delay} | found

    def _trial(self, point: int, fsync: bool, limit: int | None, delay: float | None = None) -> dict:
        seen = self._run(point, fsync, limit, delay)
        acknowledged, started, spent, phase = (int(value) for value in seen[: _PHASE + 1])
        found = {
            "fsync": fsync,
            "phase": "outside" if delay is not None else PHASES[phase],
            "bytes_written": spent,
            "acknowledged_tokens": acknowledged,
            "started_tokens": started,
        }
        found |= inspect(self.folder / "store", self.contents, acknowledged, started)
        shutil.rmtree(self.folder / "store", ignore_errors=True)
        return found

    def _run(self, point: int, fsync: bool, limit: int | None, delay: float | None = None) -> np.ndarray:
        """Run the workload in a child: to its end, to a byte, or for a time; what it left in shared memory."""
        folder = self.folder / "store"
        shutil.rmtree(folder, ignore_errors=True)
        shared = np.frombuffer(mmap.mmap(-1, 8 * (_FIELDS + _CALLS)), np.int64)
        files = KillingFiles(shared, limit or np.iinfo(np.int64).max)
        tokens = self.tokens if delay is None else _ENDLESS

        def work():
            with GhostStore.create(folder, self.contents.shape, fsync, files=files) as store:
                for size in batches(self.contents.shape, tokens, stable_seed(self.seed, point)):
                    shared[_STARTED] = store.tokens + size
                    shared[_ACKNOWLEDGED] = store.append(
                        *self.contents.tokens(store.tokens, store.tokens + size)
                    )

        child = fork(work)
        if delay is not None:
            time.sleep(delay)
            os.kill(child, signal.SIGKILL)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if status in DISK_FULL:
            raise OSError(status, os.strerror(status), str(folder))
        expected = 0 if limit is None and delay is None else -signal.SIGKILL
        if status != expected:
            raise RuntimeError(
                f"kill {point}: the child ended with {status} and not with {expected}; see the log"
            )
        return shared.copy()


def fork(work: Callable[[], None]) -> int:
    """Run `work` in a forked child, which has NumPy and compiled code already; its process id.

    The child ends without running anything of its parent's: no buffers, no exit handlers. Where the disk took no more, its
    status says why, by the number of the error.
    """
    child = os.fork()
    if child:
        return child
    try:
        work()
        os._exit(0)
    except BaseException as error:
        number = getattr(error.__cause__ or error, "errno", None)
        if number in DISK_FULL:
            os._exit(number)
        traceback.print_exc()
    os._exit(3)


def inspect(folder: Path, contents: Contents, acknowledged: int, started: int) -> dict:
    """Open what a kill left, compare it with what was appended, append to it, open it again.

    Returns the columns of `KILL_SCHEMA` from `recovered_tokens` on. A store whose creation was killed is not there;
    it survived if it can be created.
    """
    found = {
        "recovered_tokens": 0,
        "cut_bytes": 0,
        "readable": False,
        "identical": False,
        "appendable": False,
    }
    fault = ""
    try:
        if (folder / ROWS_FILE).exists():
            store = GhostStore.open(folder, writable=True, check="all")
        else:
            store = GhostStore.create(folder, contents.shape)
        with store:
            recovered = store.tokens
            found |= {"recovered_tokens": recovered, "cut_bytes": store.cut_bytes, "readable": True}
            found["identical"] = contents.same(store, recovered)
            more = contents.shape.segment_tokens + 1
            store.append(*contents.tokens(recovered, recovered + more))
        with GhostStore.open(folder, check="all") as store:
            found["appendable"] = store.tokens == recovered + more and contents.same(store, store.tokens)
    except StoreError as error:
        fault = str(error)
    whole = found["readable"] and found["identical"] and found["appendable"]
    kept = acknowledged <= found["recovered_tokens"] <= started
    return found | {"survived": whole and kept, "fault": fault}


def _phase_of(descriptor: int, offset: int) -> int:
    name = Path(os.readlink(f"/proc/self/fd/{descriptor}")).name
    if name == LOG_FILE:
        return PHASES.index("log")
    if name == ROWS_FILE:
        return PHASES.index("segment" if offset >= PAGE else "mark")
    return PHASES.index("create")
