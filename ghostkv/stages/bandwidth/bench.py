"""Which configurations are timed and counted on this machine, and how a timing is made of repeats."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ghostkv.files.io import stable_seed
from ghostkv.stages.bandwidth.fit import features
from ghostkv.stages.bandwidth.probes import LINE, PAGE, DiskFile, Memory, random_rows, rows_at, tiled
from ghostkv.stages.bandwidth.tiers import expected
from ghostkv.store.touched import touched

if TYPE_CHECKING:
    from ghostkv.config.bandwidth import Measure

# Rows as a cache stores them: K of one head of width 64 in fp16, K and V of it, and K and V at width 128.
SURVIVOR_ROWS = (128, 256, 512)
# Rows of the gathers whose pages are counted; K and V of one token, and a row that straddles units.
_COUNTED_ROWS = (64, 200, 256, 512, 4096)
_KEYS = ("tier", "pattern", "row_bytes", "share", "depth")


@dataclass(frozen=True)
class Configuration:
    """One gather to time: what it is, what it touches, and how it is done once (NaN seconds: not as it should be)."""

    about: Mapping
    touches: Mapping
    once: Callable[[int], float]


class Bench:
    """Configurations in turns, so that a disturbance hits all of them and not one."""

    def __init__(self, options: Measure):
        self.options, self.configurations = options, []

    def seed(self, *parts) -> int:
        """A seed for these parts."""
        return stable_seed(self.options.seed, *parts)

    def places(self, pages: int, *parts) -> np.ndarray:
        """Where 64 repeats begin, in bytes: another page each time, so that what one left in caches serves no later one."""
        return np.random.default_rng(self.seed(*parts)).integers(0, pages, 64) * PAGE

    def add(
        self,
        about: Mapping,
        starts: np.ndarray,
        row_bytes: int,
        unit: int,
        merge: bool,
        once: Callable[[int], float],
    ) -> None:
        """A gather of rows at `starts`; `once` takes the number of the repeat and returns seconds.

        NaN says that the repeat did not read what it should, as where a file was not cold: it is not counted.
        """
        found, sizes = features(starts, row_bytes, unit, about["depth"], merge)
        touches = {"rows": found.rows, "requests": found.requests, "units": found.units, "unit": unit}
        self.configurations.append(Configuration(about, {**touches, "features": sizes}, once))

    def run(self) -> list[dict]:
        """Rows of the table of samples; a configuration of which no repeat counts has none."""
        rounds, repeats = self.options.rounds, self.options.repeats
        seconds = np.empty((len(self.configurations), rounds, repeats))
        for configuration in self.configurations:  # pages, code and threads are there before the clock starts
            configuration.once(rounds * repeats)
        for turn in range(rounds * repeats):
            for index, configuration in enumerate(self.configurations):
                seconds[index, turn // repeats, turn % repeats] = configuration.once(turn)
            print(f"turn {turn + 1} of {rounds * repeats}", flush=True)
        rows = []
        for configuration, times in zip(self.configurations, seconds, strict=True):
            times = times[~np.isnan(times).all(axis=1)]
            if not times.size:
                print(f"{dict(configuration.about)}: never cold, so left out", flush=True)
                continue
            low, median, high = np.nanquantile(times, [0.1, 0.5, 0.9])
            name = ", ".join(f"{configuration.about[key]:g}" if isinstance(configuration.about[key], float)
                             else str(configuration.about[key]) for key in _KEYS)  # fmt: skip
            # Two patterns may have the same share.
            again = sum(row["name"].split(" #")[0] == name for row in rows)
            name += f" #{again + 1}" if again else ""
            row = {"name": name, **configuration.about, **configuration.touches}
            row |= {"rounds": rounds, "repeats": repeats, "seconds": np.nanmedian(times, axis=1).min()}
            rows.append(row | {"seconds_low": low, "seconds_median": median, "seconds_high": high})
        return rows


def dram_configurations(bench: Bench, memory: Memory, survivors: Sequence[np.ndarray], tokens: int) -> None:
    """Random, strided and real gathers and scans of memory."""
    options, size = bench.options, bench.options.memory_mb << 20
    wanted = int(options.gather_mb * 2**20)

    def add(pattern: str, row: int, share: float, chosen: np.ndarray, span: int) -> None:
        bases = bench.places((size - span * row) // PAGE + 1, "base", pattern, row, share)
        starts = rows_at(chosen, row)
        about = {"tier": "dram", "pattern": pattern, "row_bytes": row, "share": share, "depth": 1}
        bench.add(about, starts, row, LINE, True, lambda turn: memory.gather(starts + bases[turn % 64], row))

    for row in options.row_bytes:
        for share in options.shares:
            span = min(size // row, int(wanted / row / share))
            add("random", row, share, random_rows(span, share, bench.seed("dram", row, share)), span)
            step = max(1, round(1 / share))
            add("stride", row, 1 / step, np.arange(0, span, step), span)
    for row in SURVIVOR_ROWS:
        for part in np.array_split(np.arange(len(survivors)), min(3, len(survivors))):
            mean = np.mean([len(survivors[index]) for index in part])
            most = min(size // row, int(wanted / row * tokens / mean), 1 << 22)
            span = most // tokens * tokens or size // row
            if span < tokens:
                continue
            chosen = tiled(survivors, tokens, span, part)
            add("survivors", row, len(chosen) / span, chosen, span)
    for share in (0.25, 0.5, 1.0, 2.0, 4.0):
        count = min(int(wanted * share), size) // LINE * LINE
        bases = bench.places((size - count) // PAGE + 1, "scan", count)
        about = {"tier": "dram", "pattern": "scan", "row_bytes": count, "share": 1.0, "depth": 1}
        bench.add(
            about, np.zeros(1, np.int64), count, LINE, True,
            lambda turn, bases=bases, count=count: memory.scan(bases[turn % 64], count),
        )  # fmt: skip


def disk_configurations(bench: Bench, disk: DiskFile, survivors: Sequence[np.ndarray], tokens: int) -> None:
    """Direct reads at several sizes and depths, and gathers from the cold memory-mapped file.

    For a file whose pages can be dropped (`DiskFile.cold`): all else would time memory under the name of a disk.
    """
    options, size = bench.options, bench.options.file_mb << 20
    for kilobytes in options.block_kb if disk.direct else ():
        block = kilobytes << 10
        count = min(options.requests, size // block // 2)
        for depth in options.depths:
            rng = np.random.default_rng(bench.seed("direct", block, depth))
            # Blocks apart, so that none is the next of another.
            offsets = [2 * block * rng.permutation(size // block // 2)[:count] for _ in range(16)]
            about = {"tier": "disk_direct", "pattern": "random", "row_bytes": block, "depth": depth}
            about |= {"share": count * block / size}
            bench.add(
                about, offsets[0], block, PAGE, False,
                lambda turn, offsets=offsets, block=block, depth=depth: disk.read_direct(
                    offsets[turn % 16], block, depth
                )[0],
            )  # fmt: skip

    def add(pattern: str, row: int, share: float, starts: np.ndarray, room: int) -> None:
        # Every page is a fault of its own, also beside another.
        pages = np.unique(np.concatenate([starts // PAGE, (starts + row - 1) // PAGE])) * PAGE
        bases = bench.places(max(1, room // PAGE), "mapped", pattern, row, share)
        about = {"tier": "disk_mapped", "pattern": pattern, "row_bytes": row, "share": share, "depth": 1}
        bench.add(
            about, pages, PAGE, PAGE, False,
            lambda turn, starts=starts, row=row: disk.read_mapped(starts + bases[turn % 64], row)[0],
        )  # fmt: skip

    for row in (256, 512, PAGE):
        for share in options.shares:
            hit = 1 - (1 - share) ** max(1, PAGE // row)
            span = min(size // row, int(options.requests / hit) * max(1, PAGE // row))
            starts = rows_at(random_rows(span, share, bench.seed("mapped", row, share)), row)
            add("random", row, share, starts, size - span * row)
    for index in range(min(3, len(survivors))):
        span = min(tokens, size // 256)
        chosen = survivors[index * len(survivors) // 3]
        starts = rows_at(chosen[chosen < span], 256)
        if len(starts):
            add("survivors", 256, len(starts) / span, starts, size - span * 256)


class Comparisons:
    """Bytes that the model counts beside those that an instrument saw."""

    def __init__(self) -> None:
        self.rows: list[dict] = []

    def add(
        self,
        about: Mapping,
        starts: np.ndarray,
        universe: int,
        measured: int | None,
        cold: bool | None = None,
    ) -> None:
        """One comparison; `about` holds tier, instrument, pattern, row_bytes, unit. None where nothing was measured.

        Rows touch at least a unit, so that an instrument which says 0 does not see them, as the kernel's account
        of reads from a file system in memory: that is no measurement either.
        """
        if not measured:
            return
        row, unit = about["row_bytes"], about["unit"]
        counted = touched(starts, row, unit).size
        share = len(starts) / universe
        guess = float(expected(universe, share, row, unit)[1])
        self.rows.append(
            {
                **about, "share": share, "wanted_bytes": len(starts) * row, "counted_bytes": counted,
                "measured_bytes": measured, "expected_bytes": guess, "error": abs(counted / measured - 1),
                "expected_error": guess / measured - 1, "cold": cold,
            }
        )  # fmt: skip

    def memory(self, memory: Memory, survivors: Sequence[np.ndarray], tokens: int, options: Measure) -> None:
        """Lines that loads fall in, and pages whose accessed bit was set."""
        for pattern, row, starts, universe in _gathers(memory.words.nbytes, survivors, tokens, options):
            about = {"tier": "dram", "pattern": pattern, "row_bytes": row}
            lines = memory.lines(starts, row) * LINE
            self.add(about | {"instrument": "marked loads", "unit": LINE}, starts, universe, lines)
            pages = memory.referenced_pages(starts, row)
            bits = {"instrument": "accessed bits", "unit": PAGE}
            self.add(about | bits, starts, universe, pages and pages * PAGE)

    def disk(self, disk: DiskFile, survivors: Sequence[np.ndarray], tokens: int, options: Measure) -> None:
        """Pages that a cold mapped gather brings in, and bytes that the kernel accounts to direct reads.

        Nothing where the file's pages cannot be dropped.
        """
        for pattern, row, starts, universe in _gathers(min(disk.size, 1 << 26), survivors, tokens, options):
            if not disk.cold():
                continue
            few = starts[: 8 * options.requests]
            part = int(few[-1] // row) + 1 if len(few) < len(starts) else universe
            about = {"tier": "disk", "pattern": pattern, "row_bytes": row, "unit": PAGE}
            pages = disk.read_mapped(few, row)[1] * PAGE
            self.add(about | {"instrument": "page cache (mincore)"}, few, part, pages, True)
            if disk.direct:
                units = np.concatenate([few // PAGE, (few + row - 1) // PAGE])
                seen = disk.read_direct(np.unique(units) * PAGE, PAGE, 4)[1]
                self.add(about | {"instrument": "/proc/self/io"}, few, part, seen, True)


def _gathers(size: int, survivors: Sequence[np.ndarray], tokens: int, options: Measure):
    """Pattern, row bytes, offsets and universe of the gathers that are counted."""
    for row in _COUNTED_ROWS:
        universe = size // row
        for share in options.shares[:2]:
            rows = random_rows(universe, share, stable_seed(options.seed, "counted", row, share))
            yield "random", row, rows_at(rows, row), universe
    for row in SURVIVOR_ROWS:
        universe = size // row // tokens * tokens
        if universe:
            chosen = tiled(survivors, tokens, universe, np.arange(len(survivors)))
            yield "survivors", row, rows_at(chosen, row), universe
