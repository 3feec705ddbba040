"""The tables of the stage `decode`: bytes by tier from what moved, distributions over steps, and bins of steps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from ghostkv.lifecycle import ARCHIVE, GHOST, HOT, NONE, WARM, Life, Reads

QUANTILES = {"p01": 0.01, "p10": 0.1, "p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}
# A policy keeps a step number or an accumulator of every token; `age` needs neither.
STAMP_BYTES = 4
CEILING = "ceiling"
_SPREAD = [("mean", pa.float64()), *((name, pa.float64()) for name in QUANTILES)]
_WHERE = [("source", pa.string()), ("layer", pa.int16())]  # source: trace, or a generator's label
# Counts are tokens of one KV head's group, bytes are of one KV head.
MEASURES = (
    "cold", "eliminated", "survivors", "hits", "resurrected", "from_archive", "re_resurrected", "hot_held",
    "warm_held", "ghost_held", "archive_held", "promoted", "evicted", "archived", "fast_held", "slow_held", "disk_held",
    "fast_read", "slow_read", "disk_read", "fast_written", "slow_written", "disk_written", "bytes_ratio",
)  # fmt: skip
STEP_SCHEMA = pa.schema(
    [
        *_WHERE,
        ("kv_head", pa.int16()),
        ("policy", pa.string()),
        ("step", pa.int32()),
        ("steps", pa.int32()),
        *((name, pa.float64()) for name in MEASURES),  # means over the steps of the bin
    ]  # fmt: skip
)
SPREAD_SCHEMA = pa.schema(
    [
        *_WHERE,
        ("kv_head", pa.int16()),
        ("policy", pa.string()),
        ("measure", pa.string()),
        ("steps", pa.int32()),
        *_SPREAD,
    ]
)
LOSS_SCHEMA = pa.schema(
    [*_WHERE, ("head", pa.int16()), ("measure", pa.string()), ("steps", pa.int32()), *_SPREAD]
)
STORE_SCHEMA = pa.schema(
    [
        ("layer", pa.int16()),
        ("step", pa.int32()),
        ("rows", pa.int64()),  # survivors of all KV heads, gathered from the store
        ("wrong_rows", pa.int64()),  # rows that differ from the capture in any bit
        ("counted_bytes", pa.int64()),  # survivors times the bytes of K and V
        ("gathered_bytes", pa.int64()),  # of the arrays that came back
        ("append_seconds", pa.float64()),
        ("gather_seconds", pa.float64()),
        (
            "block_rows_bytes",
            pa.int64(),
        ),  # rows read by blocks from the file and from the tail in RAM; null: not read
        ("block_bytes", pa.int64()),  # bytes that these reads took from the file
        ("requests", pa.int64()),
        ("block_seconds", pa.float64()),
    ]
)
SCHEMAS = {"steps": STEP_SCHEMA, "spread": SPREAD_SCHEMA, "losses": LOSS_SCHEMA, "store": STORE_SCHEMA}


@dataclass(frozen=True)
class Sizes:
    """Bytes of one token of one KV head: K and V, and its ghost record."""

    pair: int
    record: int


def step_measures(life: Life, reads: Reads, sizes: Sizes, stamped: bool) -> dict[str, np.ndarray]:
    """Every count and all bytes of each step; keys are `MEASURES`, arrays of shape [steps].

    Held: when the step reads. Written: between this step and the next. A token that leaves the hot window is written
    to slow memory and disk and gets its record; what moves down after that has its copy there, so only promotion
    (to fast memory) and return from the archive (to slow memory) move bytes. Bytes of fast memory are::

        held:    (hot + warm) pair + cold record + visible stamp
        read:    (hot + hits) pair + cold record
        written: (arrivals + promoted) pair + left-hot record + read stamp
    """
    came = life.read_from(reads.ends)
    held, flows = life.held, life.flows
    cold = held[:, WARM:].sum(axis=1)
    survivors = came.sum(axis=1)
    left_hot = flows[:, HOT, WARM:].sum(axis=1)
    promoted = flows[:, GHOST, WARM] + flows[:, ARCHIVE, WARM]
    restored = flows[:, ARCHIVE, WARM] + flows[:, ARCHIVE, GHOST]
    stamp = STAMP_BYTES * stamped
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
        "fast_held": (held[:, HOT] + held[:, WARM]) * pair + cold * record + visible * stamp,
        "slow_held": (held[:, WARM] + held[:, GHOST]) * pair,
        "disk_held": cold * pair,
        "fast_read": (held[:, HOT] + came[:, WARM]) * pair + cold * record,
        "slow_read": came[:, GHOST] * pair,
        "disk_read": came[:, ARCHIVE] * pair,
        "fast_written": (flows[:, NONE, HOT] + promoted) * pair
        + left_hot * record
        + (held[:, HOT] + survivors) * stamp,
        "slow_written": (flows[:, HOT, WARM] + flows[:, HOT, GHOST] + restored) * pair,
        "disk_written": left_hot * pair,
    }
    read = found["fast_read"] + found["slow_read"] + found["disk_read"]
    return found | {"bytes_ratio": read / np.maximum(visible * pair, 1)}


def ceiling_measures(
    measures: Mapping[str, np.ndarray], hits: np.ndarray, near: np.ndarray
) -> dict[str, np.ndarray]:
    """What the best choice of warm tokens could have had on the same reads, and the least that disk must serve.

    Parameters
    ----------
    measures : mapping
        Of any policy, for what none of them changes.
    hits, near : ndarray, shape [steps]
        `lifecycle.ceiling` with the slots of fast memory, and with those of fast and slow memory together.
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
