"""What every step of a decode reads and loses, one KV head at a time; where the keys lie does not matter here.

A step's queries see exact scores of sinks and hot window and estimates of all else. A cold key is read when for some
head of the group the statistic of the rule reaches the head's threshold; every head then attends to all that the
group reads. The eliminated keys are compensated by the mean of V (`ghostkv.elimination.compensation`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ghostkv.captures.capture_files import LayerCapture
from ghostkv.codecs import Codec, Records
from ghostkv.elimination.attention import cap, cold_range, scores, softmax
from ghostkv.elimination.compensation import LEFT, cold_means, compensate, tail_weights
from ghostkv.elimination.thresholds import kept_or_estimated, reference, statistic
from ghostkv.files.compiled import njit
from ghostkv.stages.decode.lifecycle import StepReads

LOSSES = ("lost_mass", "output_error", "output_error_plain")


@dataclass(frozen=True)
class ReadRule:
    """How keys are chosen."""

    rule: str  # one of `thresholds.RULES`
    sinks: int
    hot: int
    top_k: int
    decay: float  # what is left of received attention after a step


@dataclass(frozen=True)
class Decided:
    """Reads and losses of one KV head's group."""

    reads: StepReads
    # float32 [group, steps, LOSSES]: mass of the eliminated keys; error of the output relative to the exact
    # one, with and without compensation. Errors are NaN where values were not captured.
    losses: np.ndarray
    # uint8 [steps, tokens]: of how many of the `asked` a cold key is among the best; those that ask for more come first.
    levels: np.ndarray


def decide(
    capture: LayerCapture,
    kv_head: int,
    codec: Codec,
    records: Records,
    theta: np.ndarray,
    policy: ReadRule,
    block: int = 128,
    asked: Sequence[int] = (),
    tick: Callable[[int], object] = lambda steps: None,
) -> Decided:
    """Live through the queries of a capture, which are consecutive, `block` at a time; results do not depend on it
    but for rounding.

    Records are of every token, but a step looks at none beyond its own position. `theta`, one a head of the group, is
    -inf for a head that eliminates nothing. Of the cold keys the best `asked` are marked,
    for each number ascending. `tick` is told how many steps were done.
    """
    visible = cold_range(capture.positions, capture.first_visible(), policy.sinks, policy.hot)
    keys = capture.keys[kv_head].astype(np.float32)
    values = None if capture.values is None else capture.values[kv_head].astype(np.float32)
    means = None if values is None else cold_means(values, visible)
    decoded, queries = codec.decode(records), capture.group_queries(kv_head)
    group, steps, _ = queries.shape
    losses = np.full((group, steps, len(LOSSES)), np.nan, np.float32)
    found = _Received(
        received=np.zeros(capture.tokens),
        leaving=np.zeros(steps),
        keys=np.empty(steps * capture.tokens, np.int32),
        weight=np.empty(steps * capture.tokens, np.float32),
        ends=np.zeros(steps, np.int64),
    )
    theta = np.asarray(theta, np.float32)[:, None, None]
    levels, asked = np.zeros((steps, capture.tokens), np.uint8), np.array(asked, np.int64)
    # Made once: fresh pages for every block cost more than the arithmetic on them.
    scratch = np.empty((4, group * min(block, steps) * capture.tokens), np.float32)
    for first in range(0, steps, block):
        rows = slice(first, min(first + block, steps))
        seen = visible.at(rows)
        shape = (group, rows.stop - first, int(seen.last[-1]))
        exact, guessed, known, compared = (part[: np.prod(shape)].reshape(shape) for part in scratch)
        flat = queries[:, rows].reshape(-1, keys.shape[1])
        scores(flat, keys[: shape[2]], capture.scale, capture.softcap, seen, exact.reshape(-1, shape[2]))
        projected = codec.project(flat)
        shorter = decoded[: shape[2]]
        codec.estimate(projected, shorter, capture.scale, out=guessed.reshape(-1, shape[2]))
        cap(guessed, capture.softcap)
        kept_or_estimated(guessed, exact, seen, out=known)
        weight = projected.weight(capture.scale).reshape(shape[:2])
        origin = reference(policy.rule, known, seen, min(policy.top_k, shape[2]))
        statistic(policy.rule, guessed, origin, weight, shorter.radius, seen, out=compared)
        dropped = (compared < theta).all(axis=0)
        dropped &= seen.mask(shape[2])
        if asked.size:
            _best(guessed, known, seen, asked, compared, levels[rows])
        whole = _lose(exact, guessed, dropped, losses[:, rows], known)
        if values is not None:
            _err(exact, known, whole, values[: shape[2]], means[rows], losses[:, rows])
        end = int(found.ends[first - 1]) if first else 0
        of_block = found._replace(leaving=found.leaving[rows], ends=found.ends[rows])
        _collect(dropped, exact, whole, seen.start, seen.stop, policy.decay, end, of_block)
        tick(shape[1])
    total = int(found.ends[-1])
    reads = StepReads(
        keys=found.keys[:total],
        ends=found.ends,
        weight=found.weight[:total],
        leaving=found.leaving,
        visible=visible,
    )
    return Decided(reads=reads, losses=losses, levels=levels)


def _best(guessed, known, seen, asked, scratch, levels) -> None:
    """Mark the best keys of a block, by the largest share of a head's softmax that records promise."""
    lse = softmax(known, out=scratch, dtype=np.float32)[1]
    share = np.subtract(guessed, lse[..., None], out=scratch).max(axis=0)
    share[~seen.mask(share.shape[1])] = -np.inf
    best, least = share, []
    # What is best among many is best among fewer: the largest number first, the others within it.
    for count in asked[::-1]:
        if count < best.shape[1]:
            best = np.partition(best, -count, axis=1)[:, -count:]
        least.append(best.min(axis=1))
    _mark_best(share, np.stack(least[::-1], axis=1), seen.start, seen.stop, asked, levels)


@njit(cache=True, nogil=True, error_model="numpy")
def _mark_best(share, least, start, stop, asked, levels):
    """Of keys as good as the `least`, [steps, asked], the earliest count."""
    for t in range(len(share)):
        row, level = share[t, start[t] : stop[t]], levels[t, start[t] : stop[t]]
        for number in range(asked.size):
            tau, above, tied = least[t, number], 0, 0
            for key in range(row.size):
                above += row[key] > tau
                tied += row[key] == tau
                level[key] += row[key] >= tau
            surplus, key = above + tied - asked[number], row.size - 1
            while surplus > 0:
                if row[key] == tau:
                    level[key] -= 1
                    surplus -= 1
                key -= 1


def _lose(exact, guessed, dropped, losses, lost) -> np.ndarray:
    """Scores become softmax mass, `lost` that of the eliminated; the mass that is known of after the reads."""
    mass, lse = softmax(exact, out=exact, dtype=np.float32)
    # The constant that `mass` has too. It cancels, so nothing of the truth is known by it.
    tail_weights(guessed, lse, out=guessed)
    guessed *= dropped
    np.multiply(mass, dropped, out=lost)
    losses[..., 0] = lost.sum(axis=-1)
    return np.stack([1.0 - losses[..., 0], guessed.sum(axis=-1)])


def _err(mass, lost, whole, values, means, losses) -> None:
    """Fill the output errors of a block."""
    # One product of all rows: NumPy would multiply a stack of matrices one by one, several times slower.
    exact, gone = (
        (part.reshape(-1, part.shape[-1]) @ values).reshape(*part.shape[:2], -1) for part in (mass, lost)
    )
    read, kept, size = exact - gone, whole[0], np.linalg.norm(exact, axis=-1) + 1e-30
    filled = compensate(read, kept, whole[1][..., None], means)
    plain = read / np.maximum(kept, LEFT)[..., None]
    for column, output, left in ((1, filled, whole.sum(axis=0)), (2, plain, kept)):
        losses[..., column] = np.where(left > LEFT, np.linalg.norm(output - exact, axis=-1) / size, 1.0)


class _Received(NamedTuple):
    """Attention received by each token of the hot window [tokens] and by the one that leaves it after each step;
    keys read one step after the other, what they received, and where each step's end."""

    received: np.ndarray
    leaving: np.ndarray
    keys: np.ndarray
    weight: np.ndarray
    ends: np.ndarray


@njit(cache=True, nogil=True, error_model="numpy")
def _collect(dropped, mass, whole, start, stop, decay, end, found):
    """Cold keys that a block of steps reads; those of earlier blocks end at `end`."""
    for t in range(len(start)):
        for key in range(start[t], dropped.shape[1]):
            if dropped[t, key]:
                continue
            got = 0.0
            for g in range(len(mass)):
                got += mass[g, t, key] / (whole[0, g, t] + whole[1, g, t])
            if key < stop[t]:
                found.keys[end], found.weight[end] = key, got
                end += 1
            else:
                found.received[key] = found.received[key] * decay + got
        if stop[t] < dropped.shape[1]:
            found.leaving[t] = found.received[stop[t]]
        found.ends[t] = end
