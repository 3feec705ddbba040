"""Schemes compared at equal loss: how many keys must survive for that, and what a step then takes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from ghostkv.stages.bandwidth.schemes import (
    FULL,
    OURS,
    QUEST,
    WHOLE,
    MemoryModel,
    ModelShape,
    held_in,
    step,
)
from ghostkv.stages.bandwidth.step_times import CONSTANT, TREND, share_at

# The goal of a comparison with a cache that is read whole; others name a dropped mass.
EQUAL_ERROR = "equal output error"
# Contexts tried for a crossing, per octave.
_PER_OCTAVE = 8
# Shares and losses of this size stand for 0 on a logarithmic line.
_LEAST = 1e-9


@dataclass(frozen=True)
class Operation:
    """Ghost records at one point of a measured curve."""

    share: float  # survivors of any head of the group, of cold keys
    dropped_mass: float
    output_error: float


@dataclass(frozen=True)
class Losses:
    """Losses by cache type: means over layers, texts and queries."""

    whole: Mapping[str, float]  # output error of the cache read whole
    curves: Mapping[str, Sequence[Operation]]  # of ghost records over it, by ascending theta

    @classmethod
    def of(cls, table: pl.DataFrame) -> Losses:
        """From rows of `LOSS_SCHEMA`."""
        means = table.group_by("cache", "theta").agg(
            pl.col("share_group", "dropped_mass", "output_error").mean()
        )
        whole = means.filter(pl.col("theta").is_null())
        curves: dict[str, list[Operation]] = {}
        for row in means.filter(pl.col("theta").is_not_null()).sort("cache", "theta").iter_rows(named=True):
            found = Operation(row["share_group"], row["dropped_mass"], row["output_error"])
            curves.setdefault(row["cache"], []).append(found)
        errors = dict(whole.select("cache", "output_error").iter_rows())
        return cls({FULL: 0.0} | errors, curves)

    def at(self, cache: str, loss: str, most: float) -> Operation | None:
        """The point of a curve that reads least and loses at most so much, straight between thetas in logarithms.

        Beyond the highest theta nothing is extrapolated: the point is that of the highest. None where the lowest theta loses
        more, or no curve was measured.
        """
        curve = self.curves.get(cache, ())
        # A higher theta loses no less, but for what a mean of few queries leaves open.
        lost = np.maximum.accumulate([getattr(one, loss) for one in curve]) if curve else np.zeros(0)
        if not len(lost) or most < lost[0]:
            return None
        values = np.array([[one.share, one.dropped_mass, one.output_error] for one in curve])
        lines = np.log(np.maximum(values, _LEAST)).T
        above = int(np.searchsorted(lost, most, "right"))
        if above == len(lost):
            return curve[-1]
        low, high = np.log(np.maximum(lost[above - 1 : above + 1], _LEAST))
        part = (np.log(max(most, _LEAST)) - low) / (high - low)
        return Operation(
            *np.exp(lines[:, above - 1] + part * (lines[:, above] - lines[:, above - 1])).tolist()
        )


def goals(
    losses: Losses, masses: Sequence[float]
) -> Iterator[tuple[str, str, str, Operation | None, float | None]]:
    """Goal, scheme of ours, the other, our operating point (None: out of reach), and the other's output error.

    Beside a cache that is read whole: as much output error as it has. Beside all: a dropped mass, of which what is read whole
    has none and pages at best have ours.
    """
    for scheme in OURS:
        cache = held_in(scheme)
        for against in WHOLE:
            if against in losses.whole and against != FULL:
                found = losses.at(cache, "output_error", losses.whole[against])
                yield EQUAL_ERROR, scheme, against, found, losses.whole[against]
        for mass in masses:
            found = losses.at(cache, "dropped_mass", mass)
            for against in (*WHOLE, QUEST):
                theirs = losses.whole.get(against)
                if against == QUEST and found is not None:
                    theirs = found.output_error
                yield f"dropped mass <= {mass:g}", scheme, against, found, theirs


def crossings(
    shape: ModelShape,
    placements: Sequence[Mapping],
    shares: Sequence[Mapping],
    losses: Losses,
    masses: Sequence[float],
    world: MemoryModel,
    headline: int,
) -> Iterator[dict]:
    """From which context on each of ours is faster than each other at equal loss, and how much at the headline context.

    Survivors go with the context as `shares` do.
    """
    every = sorted({row["context"] for row in shares})
    octaves = np.log2(every[-1] / every[0])
    grid = np.unique(np.rint(np.geomspace(every[0], every[-1], int(octaves * _PER_OCTAVE) + 1)).astype(int))
    tried = [int(tokens) for tokens in (*grid, headline)]
    captured = share_at(shares, CONSTANT, every[-1])
    known: dict[tuple, list[dict]] = {}
    for placement in placements:
        where = placement["kv"], placement["records"]
        for scenario in (CONSTANT, TREND):
            factors = [share_at(shares, scenario, tokens) / captured for tokens in tried]

            def times(
                scheme: str, share: float, where=where, scenario=scenario, factors=factors
            ) -> list[dict]:
                key = (*where, scenario, scheme, None if scheme in WHOLE else share)
                if key not in known:
                    at = [(tokens, min(1.0, share * by)) for tokens, by in zip(tried, factors, strict=True)]
                    known[key] = [step(scheme, shape, *where, *one, world) for one in at]
                return known[key]

            for goal, scheme, against, ours, their_error in goals(losses, masses):
                about = {
                    "shape": shape.name, "placement": placement["name"], "scenario": scenario, "scheme": scheme,
                    "against": against, "goal": goal, "headline_context": headline, "their_output_error": their_error,
                }  # fmt: skip
                if ours is None:
                    yield about | {"always": False}
                    continue
                about |= {
                    "share": ours.share,
                    "dropped_mass": ours.dropped_mass,
                    "output_error": ours.output_error,
                }
                yield about | _compared(times(scheme, ours.share), times(against, ours.share), grid)


def _compared(ours: Sequence[Mapping], theirs: Sequence[Mapping], grid: np.ndarray) -> dict:
    """Where the first is faster, of the steps on the grid; and the ratios of the last step, at the headline context."""
    pairs = zip(ours[:-1], theirs[:-1], strict=True)
    faster = np.array([a["attention_seconds"] < b["attention_seconds"] for a, b in pairs])
    slower = np.flatnonzero(~faster)
    start = 0 if not len(slower) else int(slower[-1]) + 1
    return {
        "context": float(grid[start]) if start < len(grid) else None, "always": bool(faster.all()),
        "speedup": theirs[-1]["attention_seconds"] / ours[-1]["attention_seconds"],
        "step_speedup": theirs[-1]["step_seconds"] / ours[-1]["step_seconds"],
        "bytes_ratio": ours[-1]["link_bytes"] / theirs[-1]["link_bytes"],
    }  # fmt: skip
