"""Whether the ladder of one model says that of another of wider heads and larger groups.

    python -m tests.survey.shapes results results/long/results

takes the text of code at 3,584 to 4,096 tokens in both runs, and measures every rung for groups of one head, two and so on: the mean
over all choices of so many heads of a group. Rungs of the first run are then carried over to the shape of the second: along a straight
line in the log of the number of heads, with the step of the margin times the square root of the ratio of widths, and with the step of
the records as it is, since records have as many bits a coordinate.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import polars as pl

from ghostkv.captures.capture_files import LayerCapture, read_layer, read_layers_table
from ghostkv.codecs.nested import Nested, level_bytes
from ghostkv.config.certificates import Certificates
from ghostkv.config.frontier import Frontier
from ghostkv.elimination.attention import cold_range, scores
from ghostkv.elimination.certificates import certify_mass
from ghostkv.elimination.ledger import Costs
from ghostkv.elimination.nested_bounds import read_levels
from ghostkv.elimination.powers import Powers
from ghostkv.elimination.truth import Truth, oracle_mass

RUNGS = ("heads", "united", "together", "margin", "records")
TEXTS, POSITIONS, DELTAS = ("code_codec_0", "code_held_out_0"), (3584, 4096), (0.05, 0.01)
# Rungs are carried over from groups of these sizes.
KNOWN = (1, 2, 3)


def carried(rungs: Mapping[int, Mapping[str, float]], heads: int, wider: float) -> dict[str, float]:
    """Rungs of a group of `heads` heads that are `wider` times as wide, from those of groups of `KNOWN` sizes."""
    at = {
        rung: np.polyval(np.polyfit(np.log(KNOWN), [rungs[size][rung] for size in KNOWN], 1), np.log(heads))
        for rung in RUNGS
    }
    margin = at["together"] + np.sqrt(wider) * (at["margin"] - at["together"])
    return at | {"margin": margin, "records": margin + at["records"] - at["margin"]}


def measured(folder: Path) -> pl.DataFrame:
    """Rungs by layer, KV head, size of the group and delta; layers whose window slides are left out."""
    described = read_layers_table(str(folder / "capture" / TEXTS[0]))
    rows = []
    for layer in described.filter(window=0)["layer"]:
        calibration, capture = (read_layer(str(folder / "capture" / text), layer) for text in TEXTS)
        for kv_head in range(capture.kv_heads):
            rows += [
                {"layer": layer, "kv_head": kv_head} | row for row in _rungs(calibration, capture, kv_head)
            ]
        print(f"{folder}: layer {layer}", file=sys.stderr, flush=True)
    return pl.DataFrame(rows)


def _rungs(calibration: LayerCapture, capture: LayerCapture, kv_head: int) -> Iterator[dict[str, float]]:
    width, asked, kept = capture.keys.shape[2], Certificates(), Frontier()
    codec = Nested.of(level_bytes(asked.levels, width))
    codec.fit(calibration.keys[kv_head], calibration.group_queries(kv_head).reshape(-1, width))
    some = np.flatnonzero((capture.positions >= POSITIONS[0]) & (capture.positions < POSITIONS[1]))
    positions = capture.positions[some]
    visible = cold_range(positions, np.zeros_like(positions), kept.sinks, kept.hot)
    keys, values = (one[kv_head, : POSITIONS[1]] for one in (capture.keys, capture.values))
    levels = list(codec.decode_levels(codec.encode(keys)))
    costs = Costs.of(codec.level_bytes[:-1], codec.level_bytes.sum(), width, values.shape[1])

    def read(left_out: np.ndarray) -> float:
        return float((1 - left_out * visible.cold / visible.visible).mean())

    for size in range(1, capture.group + 1):
        for heads in itertools.combinations(range(capture.group), size):
            queries = np.ascontiguousarray(capture.group_queries(kv_head)[np.ix_(heads, some)])
            exact = scores(queries, keys.astype(np.float32), capture.scale, capture.softcap, visible)
            truth = Truth.of(queries, keys, exact, values, visible, capture.scale, kept.top_k)
            bounds = np.empty((2, len(codec.levels), *exact.shape), np.float32)
            for _ in read_levels(
                codec, levels, queries, capture.scale, capture.softcap, bounds, np.empty_like(exact)
            ):
                pass
            powers = Powers.of(*bounds, truth)
            for delta in DELTAS:
                alone, shared = (oracle_mass(truth, [delta], together)[0] for together in (False, True))
                found = certify_mass(*bounds, powers, truth, costs, asked.shares, delta, together=True)
                # K and V of a key are as wide; of some their K alone is read.
                margin = (read(found.elimination[0]) + read(found.values_unread[0])) / 2
                steps = (read(alone.elimination), read(alone.united), read(shared.united), margin)
                yield {"size": size, "delta": delta} | dict(
                    zip(RUNGS, (*steps, float(found.group_nested.mean())), strict=True)
                )


def _means(found: pl.DataFrame, delta: float) -> dict[int, dict[str, float]]:
    pooled = found.filter(delta=delta).group_by("size").agg(pl.col(RUNGS).mean()).sort("size")
    return {row.pop("size"): row for row in pooled.iter_rows(named=True)}


def _line(about: Sequence[str | float], rungs: Mapping[str, float]) -> str:
    return " | ".join([*map(str, about), *(f"{rungs[rung]:.3f}" for rung in RUNGS)])


def main(folders: Sequence[Path]) -> None:
    found = [measured(folder) for folder in folders]
    widths = [read_layers_table(str(folder / "capture" / TEXTS[0]))["head_dim"][0] for folder in folders]
    for delta in DELTAS:
        print(" | ".join((f"dropped mass <= {delta:g}", "width", "heads", *RUNGS)))
        one, other = (_means(each, delta) for each in found)
        for folder, width, means in zip(folders, widths, (one, other), strict=True):
            for size, rungs in means.items():
                print(_line((folder, width, size), rungs))
        last = max(other)
        print(_line((f"{folders[1]}, by its own smaller groups", widths[1], last), carried(other, last, 1.0)))
        print(
            _line((f"{folders[0]}, carried over", widths[1], last), carried(one, last, widths[1] / widths[0]))
        )


if __name__ == "__main__":
    main([Path(folder) for folder in sys.argv[1:3]])
