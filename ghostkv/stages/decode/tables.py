"""The tables of the stage `decode`: bytes by tier from what moved, distributions over steps, and bins of steps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from ghostkv.stages.decode.lifecycle import ARCHIVE, GHOST, HOT, NONE, WARM, Life, StepReads
from ghostkv.stages.decode.schemas import BUDGETED, QUANTILES

# Bytes that a policy keeps of a hot and of a cold token: 4 for the number of the step that read it last, 4 for the attention
# that it received. A hot token is read at every step, so only the accumulator is kept of it. (The simulation's arrays are
# wider, so that ranks are those of the reference to the last bit.)
KEPT_BYTES = {"age": (0, 0), "lru": (0, 4), "attention": (4, 8)}
CEILING = "ceiling"


@dataclass(frozen=True)
class Sizes:
    """Bytes of one token of one KV head: K and V, and its ghost record."""

    pair: int
    record: int


def step_measures(life: Life, reads: StepReads, sizes: Sizes, policy: str) -> dict[str, np.ndarray]:
    """Every count and all bytes of each step; keys are `MEASURES`, arrays of shape [steps].

    Held: when the step reads. Written: between this step and the next. A token that leaves the hot window is written
    to slow memory and disk and gets its record; what moves down after that has its copy there, so only promotion
    (to fast memory) and return from the archive (to slow memory) move bytes. Bytes of fast memory are::

        held:    (hot + warm) pair + cold (record + of_cold) + hot of_hot
        read:    (hot + hits) pair + cold record
        written: (arrivals + promoted) pair + left-hot (record + of_cold) + survivors of_cold + hot of_hot

    with `of_hot`, `of_cold` of `KEPT_BYTES`. What a policy reads to rank its tokens is not counted.
    """
    came = life.read_from(reads.ends)
    held, flows = life.held, life.flows
    cold = held[:, WARM:].sum(axis=1)
    survivors = came.sum(axis=1)
    left_hot = flows[:, HOT, WARM:].sum(axis=1)
    promoted = flows[:, GHOST, WARM] + flows[:, ARCHIVE, WARM]
    restored = flows[:, ARCHIVE, WARM] + flows[:, ARCHIVE, GHOST]
    of_hot, of_cold = KEPT_BYTES[policy]
    pair, record, visible = sizes.pair, sizes.record, cold + held[:, HOT]
    found = {
        "cold": cold,
        "eliminated": cold - survivors,
        "survivors": survivors,
        "hits": came[:, WARM],
        "resurrected": came[:, GHOST] + came[:, ARCHIVE],
        "from_archive": came[:, ARCHIVE],
        "re_resurrected": life.again,
        "hot_held": held[:, HOT],
        "warm_held": held[:, WARM],
        "ghost_held": held[:, GHOST],
        "archive_held": held[:, ARCHIVE],
        "promoted": promoted,
        "evicted": flows[:, WARM, GHOST] + flows[:, WARM, ARCHIVE],
        "archived": flows[:, WARM, ARCHIVE] + flows[:, GHOST, ARCHIVE] + flows[:, HOT, ARCHIVE],
        "fast_held": (held[:, HOT] + held[:, WARM]) * pair
        + cold * (record + of_cold)
        + held[:, HOT] * of_hot,
        "slow_held": (held[:, WARM] + held[:, GHOST]) * pair,
        "disk_held": cold * pair,
        "fast_read": (held[:, HOT] + came[:, WARM]) * pair + cold * record,
        "slow_read": came[:, GHOST] * pair,
        "disk_read": came[:, ARCHIVE] * pair,
        "fast_written": (flows[:, NONE, HOT] + promoted) * pair
        + left_hot * (record + of_cold)
        + survivors * of_cold
        + held[:, HOT] * of_hot,
        "slow_written": (flows[:, HOT, WARM] + flows[:, HOT, GHOST] + restored) * pair,
        "disk_written": left_hot * pair,
    }
    read = found["fast_read"] + found["slow_read"] + found["disk_read"]
    return found | {"bytes_ratio": read / np.maximum(visible * pair, 1)}


def ceiling_measures(
    measures: Mapping[str, np.ndarray], hits: np.ndarray, near: np.ndarray
) -> dict[str, np.ndarray]:
    """What the best choice of warm tokens could have had on the same reads, and the least that disk must serve.

    The `measures` of any policy tell what none of them changes. `hits` and `near` are `lifecycle.ceiling` with the
    slots of fast memory, and with those of fast and slow memory together.
    """
    survivors = measures["survivors"]
    kept = {name: measures[name] for name in ("cold", "eliminated", "survivors")}
    return kept | {"hits": hits, "resurrected": survivors - hits, "from_archive": survivors - near}


def spread_rows(about: Mapping, measures: Mapping[str, np.ndarray]) -> Iterator[dict]:
    """A row for each measure: its distribution over steps."""
    for name, values in measures.items():
        values = np.asarray(values, np.float64)
        if np.isnan(values).any():
            continue
        found = np.quantile(values, list(QUANTILES.values()))
        named = dict(zip(QUANTILES, found.tolist(), strict=True))
        yield {**about, "measure": name, "steps": len(values), "mean": float(values.mean()), **named}


def step_rows(about: Mapping, measures: Mapping[str, np.ndarray], width: int) -> Iterator[dict]:
    """A row for every `width` steps: means."""
    steps = len(measures["cold"])
    for first in range(0, steps, width):
        rows = slice(first, min(first + width, steps))
        means = {name: float(np.mean(values[rows])) for name, values in measures.items()}
        yield {**about, "step": first, "steps": rows.stop - first, **means}


def loss_step_rows(about: Mapping, losses: Mapping[str, np.ndarray], width: int) -> Iterator[dict]:
    """A row for each loss and every `width` steps: mean, p99 and the worst step."""
    for name, values in losses.items():
        values = np.asarray(values, np.float64)
        if np.isnan(values).any():
            continue
        for first in range(0, len(values), width):
            part = values[first : first + width]
            found = {"mean": part.mean(), "p99": np.quantile(part, 0.99), "max": part.max()}
            yield {**about, "measure": name, "step": first, "steps": len(part), **found}


def budget_row(about: Mapping, measures: Mapping[str, np.ndarray], slots: int, pair: int) -> dict:
    """What one policy, or the ceiling, makes of one budget of warm slots, whose share of the tokens `about` holds.

    The `measures` are `step_measures` or `ceiling_measures`; a `pair` is the bytes of K and V of a token.
    """
    outside = measures["resurrected"] * pair
    found = dict(measures) | {"outside_read": outside}
    found.setdefault("disk_read", measures["from_archive"] * pair)
    row = {**about, "slots": slots, "budget_bytes": slots * pair, "steps": len(outside)}
    row |= {name: float(np.mean(found[name])) for name in BUDGETED if name in found}
    tails = {"resurrected_p99": measures["resurrected"], "outside_read_p99": outside}
    return row | {name: float(np.quantile(values, 0.99)) for name, values in tails.items()}
