"""Section `bandwidth`: memory tiers, schemes on them, and what this machine's tiers are measured with."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from ghostkv.config.base import (
    Ascending,
    Counts,
    Heads,
    Layers,
    Repeats,
    Section,
    Seed,
    Shares,
    Theta,
    once,
    part,
    setting,
)
from ghostkv.config.caches import CacheName, TokenCacheName
from ghostkv.config.options import Count, Width
from ghostkv.files.errors import ConfigError
from ghostkv.quantised.by_name import CACHE_TYPES

Context = Annotated[int, Field(ge=1, le=1 << 40)]  # asked of a model, not run
# Bounds that catch slips of a factor 1,000: GB/s as MB/s, us as ns.
Gigabytes = Annotated[float, Field(ge=0.01, le=1e5)]
Microseconds = Annotated[float, Field(ge=0, le=1e6)]
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=64)]
Kilobytes = Annotated[int, Field(ge=4, le=4096)]
Depth = Annotated[int, Field(ge=1, le=256)]  # a thread each


class TierEntry(Section):
    """One level of memory."""

    name: Name = setting(..., "How tables and placements call it.")
    gb_s: Gigabytes = setting(..., "Bandwidth that reaches the compute, in 10^9 B/s.")
    near_gb_s: Gigabytes = setting(..., "Bandwidth beside the memory, before the link, in 10^9 B/s.")
    latency_us: float = setting(..., "One request that waits for nothing, in microseconds.", ge=1e-3, le=1e5)
    unit: Count = setting(..., "Bytes moved at least: line, page or block.")
    depth: Count = setting(..., "Requests in flight.")
    overhead_us: Microseconds = setting(0.0, "Cost of each request beside all others.")
    source: str = setting(..., "Where the figures come from.", min_length=12)

    @model_validator(mode="after")
    def _unit_is_a_power_of_two(self) -> TierEntry:
        if self.unit & (self.unit - 1):
            raise ConfigError(
                f"config: bandwidth.tiers ({self.name}) has unit: {self.unit}. Accepted: a power of two, as of lines, "
                "pages and blocks.\n  Write: unit: 64"
            )
        return self


class Placement(Section):
    """Where the cold keys and values lie, and where their records."""

    name: Name = setting(..., "How tables call it.")
    kv: Name = setting(..., "Tier of cold K and V.")
    records: Name = setting(..., "Tier of the records, or of Quest's page bounds.")


class Served(Section):
    """The model whose steps are timed."""

    name: str = setting(..., "How tables call it.")
    layers: Layers = setting(..., "Layers.")
    heads: Heads = setting(..., "Query heads of a layer.")
    kv_heads: Heads = setting(..., "KV heads of a layer.")
    head_dim: Width = setting(..., "Width of a key, and of a value.")
    layer_parameters: int = setting(..., "Weights of a layer, read in fp16 once a step.", ge=1, le=10**12)


class Measure(Section):
    """What is timed on this machine."""

    memory_mb: Annotated[int, Field(ge=8, le=16384)] = setting(
        512, "Working set in DRAM; many times the last cache."
    )
    file_mb: Annotated[int, Field(ge=4, le=16384)] = setting(
        512, "File on disk, in results/bandwidth, removed afterwards."
    )
    row_bytes: Counts = setting([64, 128, 256, 512, 1024, 4096], "Rows gathered; multiples of 8 bytes.")
    shares: Shares = setting([0.01, 0.03, 0.1, 0.3], "Shares of rows that a gather reads.", min_length=1)
    block_kb: Annotated[list[Kilobytes], once()] = setting(
        [4, 8, 16, 32, 64, 128, 256], "Sizes of direct reads, powers of two.", min_length=1, max_length=16
    )
    depths: Annotated[list[Depth], Field(min_length=1, max_length=16), once()] = setting(
        [1, 2, 4, 8], "Direct reads in flight, one thread each."
    )
    gather_mb: float = setting(
        3.0, "MB that one timed gather in DRAM reads; short, to be seldom interrupted.", ge=0.01, le=1024
    )
    requests: Count = setting(128, "Requests of one timed read from disk.")
    rounds: Repeats = setting(6, "Rounds; the round with the least median counts.")
    repeats: Repeats = setting(5, "Repeats in a round, of all configurations in turns.")
    layers: Layers = setting(3, "Layers whose survivors give real index patterns.")
    patterns: Count = setting(48, "Queries a layer that give one.")
    seed: Seed = setting(0, "Seed of random rows.")

    @model_validator(mode="after")
    def _sizes_fit(self) -> Measure:
        uneven = [size for size in self.row_bytes if size % 8]
        odd = [size for size in self.block_kb if size & (size - 1)]
        if uneven or odd:
            raise ConfigError(
                f"config: bandwidth.measure has row_bytes {uneven} and block_kb {odd}. Accepted: rows of a multiple of "
                "8 bytes, blocks of a power of two.\n  Write: row_bytes: [64, 256], block_kb: [4, 64]"
            )
        return self


class Caches(Section):
    """Cache types whose losses are measured on captures, alone and under ghost records."""

    layers: Layers = setting(6, "Layers, evenly spread.")
    queries: Count = setting(6, "Queries of a text, evenly spread from frontier.headline_start on.")
    whole: Annotated[list[CacheName], once()] = setting(
        [name for name in CACHE_TYPES if name != "fp16"],
        "Types that are read whole.",
        min_length=1,
        max_length=len(CACHE_TYPES),
    )
    under: Annotated[list[TokenCacheName], once()] = setting(
        ["fp16", "fp8", "int8", "int4"],
        "Types that ghost records lie over.",
        min_length=1,
        max_length=len(CACHE_TYPES),
    )
    thetas: Annotated[list[Theta], Ascending] = setting(
        [-5.0, -3.0, -2.0, -1.0, 0.0, 1.0],
        "Thresholds of policy ghost, for all heads, that losses are measured at.",
        min_length=2,
        max_length=64,
    )


_PCIE = "PCIe 5.0: 32 GT/s a lane, 128b/130b"
_TIERS = [
    {
        "name": "hbm", "gb_s": 4800, "near_gb_s": 4800, "latency_us": 0.6, "unit": 64, "depth": 65536,
        "source": "Datasheet NVIDIA H200: 141 GB HBM3e, 4.8 TB/s. Assumed: 0.6 us under load (Hopper's idle global "
        "memory latency: Luo et al. 2024, arXiv:2402.13499); depth for full bandwidth by Little's law, from "
        "132 SMs x 64 warps x 128 B x 4 loads in flight",
    },
    {
        "name": "dram", "gb_s": 63, "near_gb_s": 307.2, "latency_us": 1.0, "unit": 64, "depth": 1024,
        "source": f"{_PCIE}, x16: 63.0 GB/s; beside it 8 channels of DDR5-4800 (8 x 38.4 GB/s). Assumed: 1 us for a read "
        "across PCIe and 1,024 lines in flight, which saturate the link (Little's law)",
    },
    {
        "name": "cxl", "gb_s": 31.5, "near_gb_s": 1100, "latency_us": 0.4, "unit": 64, "depth": 512,
        "source": f"{_PCIE}, x8: 31.5 GB/s; beside it 1.1 TB/s of LPDDR5X (Park et al., HPCA 2024, "
        "doi:10.1109/HPCA57654.2024.00078). Assumed: 0.4 us (2-5x of local DRAM: Liu et al. 2024, arXiv:2405.14209)",
    },
    {
        "name": "nvme", "gb_s": 13, "near_gb_s": 13, "latency_us": 80, "unit": 4096, "depth": 256, "overhead_us": 0.4,
        "source": "Samsung PM1743 as announced (AnandTech, Dec 2021): 13 GB/s, 2.5 M random reads/s, hence 0.4 us each. "
        "Assumed: 80 us for a read of TLC flash, 256 in flight; no more bandwidth beside the flash",
    },
]  # fmt: skip
_PLACEMENTS = [
    {"name": "hbm", "kv": "hbm", "records": "hbm"},
    {"name": "dram", "kv": "dram", "records": "hbm"},
    {"name": "cxl", "kv": "cxl", "records": "hbm"},
    {"name": "nvme", "kv": "nvme", "records": "hbm"},
    {"name": "nvme_dram", "kv": "nvme", "records": "dram"},
]
_SERVED = {
    "name": "llama-3.1-8b", "layers": 32, "heads": 32, "kv_heads": 8, "head_dim": 128, "layer_parameters": 218112000,
}  # fmt: skip


class Bandwidth(Section):
    """Step time and bytes of each scheme on each tier, by a model that is checked on this machine."""

    tiers: Annotated[list[TierEntry], once("name")] = setting(
        [TierEntry(**tier) for tier in _TIERS],
        "Levels of memory, the fastest first; sinks, hot window and weights lie in it.",
        min_length=1,
        max_length=64,
    )
    placements: Annotated[list[Placement], once("name")] = setting(
        [Placement(**placement) for placement in _PLACEMENTS],
        "Where cold K,V and records lie.",
        min_length=1,
        max_length=64,
    )
    served: Served = setting(
        Served(**_SERVED), "A model to serve with the fractions of the captured one (assumed)."
    )
    contexts: Annotated[list[Context], Ascending] = setting(
        [4096, 8192, 16384, 32768, 65536, 131072, 262144, 524288, 1048576],
        "Tokens of context, ascending.",
        min_length=2,
        max_length=64,
    )
    headline_context: Context = setting(131072, "One of them, for headline figures.")
    point: Literal["fer", "dropped_mass"] = setting(
        "dropped_mass",
        "Loss of the operating point that steps, maps and patterns are shown at, at the largest of frontier.targets.",
    )
    overlap: Annotated[float, Field(ge=0, le=1)] = setting(
        0.0,
        "Share of reads of cold K,V that hides behind other reads: of weights, and of exact keys where all is read.",
    )
    phase_us: Microseconds = setting(
        1.0, "From bounds to the gather that depends on them: one kernel more (assumed)."
    )
    page: Count = setting(16, "Tokens a page of the Quest-like scheme.")
    caches: Caches = part(Caches)
    measure: Measure = part(Measure)

    @model_validator(mode="after")
    def _names_exist(self) -> Bandwidth:
        names = [tier.name for tier in self.tiers]
        for placement in self.placements:
            for key in ("kv", "records"):
                if getattr(placement, key) not in names:
                    raise ConfigError(
                        f"config: bandwidth.placements ({placement.name}) has {key}: {getattr(placement, key)}, which "
                        f"bandwidth.tiers does not list. Accepted: {', '.join(names)}.\n  Write: {key}: {names[0]}"
                    )
        return self

    @model_validator(mode="after")
    def _headline_is_a_context(self) -> Bandwidth:
        if self.headline_context not in self.contexts:
            raise ConfigError(
                f"config: bandwidth.headline_context is {self.headline_context}. Accepted: one of bandwidth.contexts, "
                f"{self.contexts}.\n  Write: headline_context: {self.contexts[-1]}"
            )
        return self
