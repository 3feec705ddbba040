"""From measured tables to the model's: survivors by context, steps, crossings, maps, sensitivity."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from ghostkv.files.errors import TableError
from ghostkv.stages.bandwidth.fit import LEAST, fit, foretell, halves
from ghostkv.stages.bandwidth.schemes import (
    INT4,
    NESTED,
    SCHEMES,
    Clustering,
    MemoryModel,
    ModelShape,
    step,
)
from ghostkv.stages.bandwidth.tiers import Tier, expected

if TYPE_CHECKING:
    from ghostkv.stages.bandwidth.jobs import Point

CONSTANT, TREND = "constant", "trend"
# Points on each axis of a map; a small change for an elasticity.
_GRID, _NUDGE = 25, 1.01
_ROWS_PER_UNIT = 2.0 ** np.arange(0, 9)


def check_fits(samples: pl.DataFrame, seed: int) -> tuple[list[dict], list[dict], dict[str, Tier]]:
    """Fit each measured tier on half of its configurations and foretell the other half.

    Returns the rows of the tables `fits` and `errors`, and the tiers by name.
    """
    fits, errors, tiers = [], [], {}
    for (name,), rows in samples.group_by("tier", maintain_order=True):
        if rows.height < 2 * LEAST:
            print(f"{name}: {rows.height} configurations are too few to fit and check; left out", flush=True)
            continue
        sizes, seconds = np.array(rows["features"].to_list()), rows["seconds"].to_numpy()
        fitted, unit = halves(rows["name"].to_list(), seed), int(rows["unit"][0])
        tier = tiers[name] = fit(name, unit, sizes[fitted], seconds[fitted])
        modelled = foretell(tier, sizes)
        error = modelled / seconds - 1
        away = np.abs(error)
        worst = int(np.argmax(np.where(fitted, -1, away)))
        spread = (rows["seconds_high"] - rows["seconds_low"]) / rows["seconds_median"]
        fits.append(
            {
                "tier": name, "configurations": len(seconds), "fitted": int(fitted.sum()),
                "gb_s": tier.bandwidth / 1e9, "latency_us": 1e6 * tier.latency, "overhead_us": 1e6 * tier.overhead,
                "ramp_us": 1e6 * tier.ramp, "ramp_units": tier.ramp_units, "unit": unit,
                "fitted_error_median": float(np.median(away[fitted])),
                "error_median": float(np.median(away[~fitted])), "error_p90": float(np.quantile(away[~fitted], 0.9)),
                "error_worst": float(away[worst]), "worst": rows["name"][worst],
                "seconds_spread_median": float(spread.median()),
            }
        )  # fmt: skip
        about = rows.select("name", "tier", "pattern", "row_bytes", "share", "depth", "seconds").to_dicts()
        for row, held_out, guess, off in zip(about, ~fitted, modelled, error, strict=True):
            errors.append(
                row | {"held_out": bool(held_out), "modelled_seconds": float(guess), "error": float(off)}
            )
    if "dram" not in tiers:
        raise TableError(
            "bandwidth: too few gathers in memory were timed to fit and check the model.\n"
            "  Write: bandwidth: {measure: {row_bytes: [64, 256, 1024], shares: [0.05, 0.2]}}"
        )
    return fits, errors, tiers


def clustering(patterns: pl.DataFrame) -> Clustering:
    """How real survivors touch units of several rows, over what random ones of the same number would."""
    seen, guessed = np.zeros((2, len(_ROWS_PER_UNIT))), np.zeros((2, len(_ROWS_PER_UNIT)))
    for cold, survivors in patterns.select("cold", "survivors").iter_rows():
        rows = np.asarray(survivors, np.int64)
        if not len(rows):
            continue
        for index, fit_ in enumerate(_ROWS_PER_UNIT.astype(int)):
            units = np.unique(rows // fit_)
            runs, hits = expected(cold, len(rows) / cold, 1, int(fit_))
            seen[:, index] += len(units), 1 + np.count_nonzero(np.diff(units) > 1)
            guessed[:, index] += float(hits) / fit_, float(runs)
    if not guessed.any():
        return Clustering.none()
    return Clustering(_ROWS_PER_UNIT, *(seen / np.maximum(guessed, 1e-12)))


def bands(context: pl.DataFrame, point: Point, pair_bytes: float) -> pl.DataFrame:
    """Survivors by band of positions: per head, and united over groups, which the GQA-true bytes give.

    A query with c cold and e exact keys reads ``(record c / pair + u c + e)`` rows of its ``c + e``; the bytes ratio
    is that share, so that u follows from it. Within a band the mean c stands for each query's.
    """
    headline, exact = point.headline, point.sinks + point.hot
    rows = context.filter(
        (pl.col("codec") == headline.name)
        & (pl.col("code_bytes") == headline.code_bytes)
        & (pl.col("target_metric") == point.target_metric)
        & ((pl.col("target") - point.target).abs() < 1e-6)
    )
    if not rows.height:
        raise TableError(
            f"results/frontier/context.parquet: no rows of the headline design at {point.target_metric} <= "
            f"{point.target:g}. Delete it and rerun frontier."
        )
    cold = pl.col("cold_keys").cast(pl.Float64)
    own = 1 - pl.col("elimination").cast(pl.Float64)
    record = pl.col("record_bytes") / pair_bytes
    united = (pl.col("bytes_ratio_gqa").cast(pl.Float64) * (cold + exact) - exact) / cold - record
    rows = rows.with_columns(own.alias("own"), united.clip(0.0, 1.0).alias("united"), cold.alias("cold"))
    by_layer = rows.group_by("band_start", "band_stop", "layer").agg(pl.col("united").mean())
    edges = by_layer.group_by("band_start", "band_stop").agg(
        pl.col("united").min().alias("low"), pl.col("united").max().alias("high")
    )
    return (
        rows.group_by("band_start", "band_stop")
        .agg(
            pl.col("own", "united", "cold").mean(),
            pl.struct("layer", "head").n_unique().alias("heads"),
            pl.col("queries").sum().cast(pl.Int64),
        )
        .join(edges, on=["band_start", "band_stop"])
        .sort("band_start")
    )


def survivors(measured: pl.DataFrame, contexts: Sequence[int], level: float | None = None) -> list[dict]:
    """Share of survivors at each context: of the band of positions that holds it, and else by two scenarios.

    With a `level`, all shares are scaled so that the last band has it (united over the group). A context of n tokens is what
    the query at position n - 1 sees. One that no band holds takes the share of the nearest band, as it is (constant) or
    carried on from that band's edge by the trend over bands.
    """
    slope = 0.0
    usable = measured.filter((pl.col("united") > 0) & (pl.col("cold") > 0))
    if usable.height > 1:
        slope = float(np.polyfit(np.log(usable["cold"]), np.log(usable["united"]), 1)[0])
        # Not fewer survivors in a longer context, and not a larger share of it than of the last band's squared.
        slope = float(np.clip(slope, -1.0, 1.0))
    rows, last = [], measured["united"][-1]
    scale = 1.0 if level is None or last <= 0 else level / last
    for scenario, exponent in ((CONSTANT, 0.0), (TREND, slope)):
        for tokens in contexts:
            band, edge = _nearest(measured, tokens)
            factor = scale * (tokens / edge) ** exponent
            shares = {
                "share_head": band["own"], "share_group": band["united"], "share_group_low": band["low"],
                "share_group_high": band["high"],
            }  # fmt: skip
            row = {name: min(1.0, share * factor) for name, share in shares.items()}
            row |= {"scenario": scenario, "measured": edge == tokens, "context": tokens, "exponent": exponent}
            rows.append(row | {"heads": band["heads"], "queries": band["queries"]})
    return rows


def _nearest(measured: pl.DataFrame, tokens: int) -> tuple[dict, int]:
    """The band that comes closest to a context, and its context that does: `tokens` itself where the band holds it."""
    found = [
        (band, min(max(tokens, band["band_start"] + 1), band["band_stop"]))
        for band in measured.iter_rows(named=True)
    ]
    return min(found, key=lambda pair: abs(np.log(tokens / pair[1])))


def share_at(rows: Sequence[Mapping], scenario: str, tokens: float) -> float:
    """Survivors united over a group, at any context between those of a table."""
    chosen = [row for row in rows if row["scenario"] == scenario]
    where, shares = [row["context"] for row in chosen], [row["share_group"] for row in chosen]
    return float(np.exp(np.interp(np.log(tokens), np.log(where), np.log(np.maximum(shares, 1e-12)))))


def steps(
    shape: ModelShape, placements: Sequence[Mapping], shares: Sequence[Mapping], world: MemoryModel
) -> Iterator[dict]:
    """Every scheme at every placement, scenario and context."""
    for placement in placements:
        for row in shares:
            for scheme in SCHEMES:
                where = placement["kv"], placement["records"]
                found = step(scheme, shape, *where, row["context"], row["share_group"], world)
                about = {"shape": shape.name, "placement": placement["name"], "scheme": scheme}
                yield about | {"scenario": row["scenario"], "context": row["context"]} | found


def maps(shape: ModelShape, kv: str, world: MemoryModel, context: int) -> Iterator[dict]:
    """Speed-up of nested storage over INT4 in full: by bandwidth of the K,V tier, by its unit, by survivors."""
    fast, tier = world.tiers[world.fast], world.tiers[kv]
    shares = np.geomspace(0.002, 0.6, _GRID)
    variants = [
        ("bandwidth", ratio, _widened(tier, ratio * fast.bandwidth))
        for ratio in np.geomspace(1 / 1024, 1, _GRID)
    ] + [("unit", 2.0**power, replace(tier, name="map", unit=2**power)) for power in range(5, 17)]
    for name, x, changed in variants:
        varied = replace(world, tiers={**world.tiers, "map": changed})
        for share in shares:
            ours, theirs = (
                step(scheme, shape, "map", world.fast, context, share, varied)["attention_seconds"]
                for scheme in (NESTED, INT4)
            )
            about = {"map": name, "shape": shape.name, "x": float(x), "share": float(share)}
            yield about | {"scheme": NESTED, "against": INT4, "context": context, "speedup": theirs / ours}


def _widened(tier: Tier, bandwidth: float) -> Tier:
    """A tier of another bandwidth, with as many more requests in flight as that takes at its latency."""
    depth = tier.depth * max(1.0, bandwidth / tier.bandwidth)
    return replace(tier, name="map", bandwidth=bandwidth, depth=depth)


def sensitivity(
    shape: ModelShape, placements: Sequence[Mapping], share: float, world: MemoryModel, context: int
) -> Iterator[dict]:
    """How the attention time of nested storage answers to each parameter, halved and doubled."""
    for placement in placements:
        kv, records = placement["kv"], placement["records"]

        def seconds(changed: MemoryModel, used: float, kv=kv, records=records) -> float:
            return step(NESTED, shape, kv, records, context, used, changed)["attention_seconds"]

        plain = seconds(world, share)
        for name, value, vary in _parameters(world, kv, share):
            low, high = (0.0, 1.0) if name == "overlap" else (value / 2, value * 2)
            if name == "survivors":
                high = min(1.0, high)
            if name == f"{kv} unit":
                low = max(1, low)  # half a byte is no unit
            nudged = value * _NUDGE
            elastic = value > 0 and name not in ("overlap", f"{kv} unit")
            yield {
                "shape": shape.name, "placement": placement["name"], "scheme": NESTED, "context": context,
                "parameter": name, "low": low, "high": high, "seconds": plain,
                "low_seconds": seconds(*vary(low)), "high_seconds": seconds(*vary(high)),
                "elasticity": float(np.log(seconds(*vary(nudged)) / plain) / np.log(_NUDGE)) if elastic else None,
            }  # fmt: skip


def _parameters(world: MemoryModel, kv: str, share: float) -> Iterator[tuple]:
    """Name, value, and what the world and the survivors are at another value."""

    def tier_with(name: str, field: str):
        def vary(value: float) -> tuple[MemoryModel, float]:
            value = int(value) if field == "unit" else value
            changed = replace(world.tiers[name], **{field: value})
            return replace(world, tiers={**world.tiers, name: changed}), share

        return vary

    fields = ("bandwidth", "latency", "unit", "depth", *(["overhead"] if world.tiers[kv].overhead else []))
    for field in fields:
        yield f"{kv} {field}", getattr(world.tiers[kv], field), tier_with(kv, field)
    if kv != world.fast:
        value = world.tiers[world.fast].bandwidth
        yield f"{world.fast} bandwidth", value, tier_with(world.fast, "bandwidth")
    yield "survivors", share, lambda value: (world, value)
    yield "record bits", world.code_bits, lambda value: (replace(world, code_bits=value), share)
    yield "phase", world.phase, lambda value: (replace(world, phase=value), share)
    yield "overlap", world.overlap, lambda value: (replace(world, overlap=value), share)
