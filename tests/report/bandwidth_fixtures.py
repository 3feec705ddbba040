"""Tables of the stage `bandwidth` from its own model, on made-up timings and survivors."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import polars as pl

from ghostkv.config.bandwidth import Bandwidth
from ghostkv.stages.bandwidth import step_times as model
from ghostkv.stages.bandwidth.equal_loss import Losses, crossings
from ghostkv.stages.bandwidth.fit import features, foretell
from ghostkv.stages.bandwidth.schemas import COUNT_SCHEMA, LOSS_SCHEMA, MODEL_SCHEMAS, SAMPLE_SCHEMA
from ghostkv.stages.bandwidth.schemes import Clustering, MemoryModel, ModelShape
from ghostkv.stages.bandwidth.tiers import Tier

TRUE = Tier("dram", 8e9, 1e-8, 64, 1.0, 0.0, 2e-8, 3.0)


def samples(noise: float = 0.0) -> pl.DataFrame:
    """Timings that the model explains, but for a share of noise."""
    rng, rows = np.random.default_rng(0), []
    for size in (64, 128, 256, 1024, 4096):
        for count in (50, 500, 5000):
            starts = np.arange(count, dtype=np.int64) * 4 * size
            found, sizes = features(starts, size, 64, 1, True)
            seconds = float(foretell(TRUE, np.array([sizes]))[0]) * float(np.exp(noise * rng.normal()))
            row = {
                "name": f"{size}, {count}",
                "tier": "dram",
                "pattern": "random",
                "row_bytes": size,
                "share": 0.25,
            }
            row |= {"depth": 1, "rows": count, "requests": found.requests, "units": found.units, "unit": 64}
            row |= {"features": sizes, "rounds": 1, "repeats": 1, "seconds": seconds, "seconds_low": seconds}
            rows.append(row | {"seconds_median": seconds, "seconds_high": 1.1 * seconds})
    return pl.DataFrame(rows)


def bands(shares=(0.2, 0.1)) -> pl.DataFrame:
    """Survivors at two bands of positions."""
    rows = [
        {"band_start": 1024 << index, "band_stop": 2048 << index, "own": share / 2, "united": share, "low": share / 3,
         "high": 2 * share, "cold": 1000.0 * 2**index, "heads": 4, "queries": 40}
        for index, share in enumerate(shares)
    ]  # fmt: skip
    return pl.DataFrame(rows)


def losses() -> Iterator[dict]:
    """Caches that lose more the fewer bytes they take, and records over three of them."""
    about = {"layer": 0, "text": "t", "domain": "d", "queries": 4}
    whole = {"fp8": (0.5, 0.08), "int8": (0.53, 0.01), "int4": (0.31, 0.13), "int3": (0.25, 0.29)}
    for cache, (size, error) in whole.items():
        row = about | {"cache": cache, "theta": None, "share_head": 1.0, "share_group": 1.0}
        yield row | {"bytes_ratio_gqa": size, "dropped_mass": 0.0, "output_error": error}
    for cache, size, least in (("fp16", 1.0, 0.0), ("fp8", 0.5, 0.08), ("int8", 0.53, 0.01)):
        for theta, share, mass in ((-3.0, 0.4, 0.004), (-1.0, 0.2, 0.02), (1.0, 0.03, 0.12)):
            row = about | {"cache": cache, "theta": theta, "share_head": share / 2, "share_group": share}
            row |= {"bytes_ratio_gqa": 0.04 + share * size, "dropped_mass": mass}
            yield row | {"output_error": float(np.hypot(least, 0.8 * mass))}


def bandwidth_tables(noise: float = 0.0, byte_error: float = 0.0) -> dict[str, tuple[list[dict], object]]:
    """Rows and schema of every table that the report reads."""
    config = Bandwidth().plain()
    tiers = {
        tier["name"]: Tier(tier["name"], 1e9 * tier["gb_s"], 1e-6 * tier["latency_us"], tier["unit"], tier["depth"],
                           near_bandwidth=1e9 * tier["near_gb_s"])
        for tier in config["tiers"]
    }  # fmt: skip
    world = MemoryModel(tiers, "hbm", 68, 1.0, 0.0, 1e-6, 16, Clustering.none())
    shape = ModelShape("made-up", 2, 4, 2, 64, 1_000_000)
    frame = samples(noise)
    rows: dict[str, list[dict]] = {}
    rows["fits"], rows["errors"], _ = model.check_fits(frame, 0)
    shares = model.survivors(bands(), config["contexts"])
    rows["survivors"] = [{"shape": shape.name, **row} for row in shares]
    rows["steps"] = list(model.steps(shape, config["placements"], shares, world))
    lost = list(losses())
    rows["crossings"] = list(
        crossings(
            shape, config["placements"], shares, Losses.of(pl.DataFrame(lost)), [0.01, 0.05], world, 131072
        )
    )
    rows["maps"] = list(model.maps(shape, "dram", world, 131072))
    rows["sensitivity"] = list(model.sensitivity(shape, config["placements"], 0.1, world, 131072))
    counted = {
        "tier": "dram",
        "instrument": "marked loads",
        "pattern": "random",
        "row_bytes": 256,
        "share": 0.1,
    }
    counted |= {"unit": 64, "wanted_bytes": 2560, "counted_bytes": 2560, "measured_bytes": 2560}
    counted |= {"expected_bytes": 2560.0, "error": byte_error, "expected_error": 0.0, "cold": None}
    found = {name: (rows[name], schema) for name, schema in MODEL_SCHEMAS.items()}
    found["losses"] = lost, LOSS_SCHEMA
    return found | {"samples": (frame.to_dicts(), SAMPLE_SCHEMA), "counts": ([counted], COUNT_SCHEMA)}
