"""What each scheme reads in one decode step, from which tier, and how long that takes.

A step reads, layer by layer: the exact keys (sinks and hot window), which lie in the fastest tier; the records of all
cold keys; and cold keys and values, all of them or those that survive. docs/bandwidth.md has the formulas.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ghostkv.codecs.base import ELEMENT_BYTES
from ghostkv.quantised.by_name import CACHE_TYPES
from ghostkv.stages.bandwidth.tiers import Tier, expected

# Cache types that are read whole, what chooses pages or keys of a full cache, and ghost records over a quantised one.
FULL, FP8, INT8, INT4, INT3 = "full", "fp8", "int8", "int4", "int3"
QUEST, ADDITIVE, NESTED, NEAR = "quest", "additive", "nested", "near_memory"
OVER_FP8, OVER_INT8 = "over_fp8", "over_int8"
WHOLE = (FULL, FP8, INT8, INT4, INT3)
OURS = (ADDITIVE, NESTED, NEAR, OVER_FP8, OVER_INT8)
SCHEMES = (*WHOLE, QUEST, *OURS)
# What a scheme holds cold keys and values in.
_HELD = {
    FULL: "fp16",
    FP8: "fp8",
    INT8: "int8",
    INT4: "int4",
    INT3: "int3",
    OVER_FP8: "fp8",
    OVER_INT8: "int8",
}
_RHO_BYTES = 1


@dataclass(frozen=True)
class ModelShape:
    """A model's layers, as far as their memory traffic goes."""

    name: str
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    layer_parameters: int

    @property
    def pair_bytes(self) -> int:
        """One key and one value in fp16."""
        return 2 * ELEMENT_BYTES * self.head_dim


@dataclass(frozen=True)
class Clustering:
    """How much closer real survivors lie together than rows drawn at random."""

    rows: np.ndarray  # [sizes]: rows to a unit, ascending
    units: np.ndarray  # [sizes]: touched units over what random rows of the same number would touch
    runs: np.ndarray  # [sizes]: the same of runs of units

    @classmethod
    def none(cls) -> Clustering:
        """Rows at random."""
        return cls(np.ones(1), np.ones(1), np.ones(1))

    def at(self, rows: float) -> tuple[float, float]:
        """Both factors where so many rows lie in a unit; beyond the measured sizes those of the last."""
        where = np.log2(max(rows, 1.0))
        return tuple(
            float(np.interp(where, np.log2(self.rows), factor)) for factor in (self.units, self.runs)
        )


@dataclass(frozen=True)
class MemoryModel:
    """Everything that does not change with context and scheme."""

    tiers: Mapping[str, Tier]
    fast: str  # the tier of weights, sinks and hot window
    exact: int  # sinks and hot window, in tokens
    code_bits: float  # bits of a record per coordinate of a key
    overlap: float  # share of cold K,V reads that hides behind work of other tiers which need not come first
    phase: float  # seconds from bounds to gather
    page: int
    clustering: Clustering

    def record_bytes(self, shape: ModelShape) -> float:
        """Code and residual norm of one key."""
        return self.code_bits * shape.head_dim / 8 + _RHO_BYTES


def gather(
    universe: float, share: float, row_bytes: int, tier: Tier, clustering: Clustering
) -> tuple[float, float, float]:
    """Requests, bytes of whole units and ramp units of reading a share of rows from a tier, on average."""
    if universe <= 0 or share <= 0:
        return 0.0, 0.0, 0.0
    fit = max(1, tier.unit // row_bytes)
    requests, size = (float(value) for value in expected(universe, share, row_bytes, tier.unit))
    more_units, more_runs = clustering.at(fit)
    each = -(-row_bytes // tier.unit) * tier.unit
    # Never fewer units than full of survivors, never more than there are or than there are survivors.
    least, most = share * universe / fit * each, min(universe / fit, share * universe) * each
    size = float(np.clip(size * more_units, least, max(most, least)))
    requests = float(np.clip(requests * more_runs, min(1.0, size / each), max(size / each, 1e-9)))
    return requests, size, _ramp(requests, size, tier)


def _ramp(requests: float, size: float, tier: Tier) -> float:
    if not (tier.ramp_units and requests):
        return 0.0
    return requests * tier.ramp_units * -np.expm1(-size / tier.unit / requests / tier.ramp_units)


def _whole(size: float, tier: Tier) -> float:
    return np.ceil(size / tier.unit) * tier.unit


def step(
    scheme: str, shape: ModelShape, kv: str, records: str, context: int, share: float, world: MemoryModel
) -> dict[str, float]:
    """Bytes and seconds of one decode step, all layers: the columns of the table `steps` from `share` on.

    Cold K,V and records lie in the tiers `kv` and `records`; of `context` tokens' cold keys a `share` survives,
    united over a group.
    """
    fast, store, index = world.tiers[world.fast], world.tiers[kv], world.tiers[records]
    heads, pair = shape.kv_heads, shape.pair_bytes
    exact = min(world.exact, context)
    cold = context - exact
    # Sinks and hot window are in fp16, whatever cold keys are held in.
    fast_bytes = heads * _whole(exact * pair, fast)
    record_bytes = near_bytes = kv_bytes = requests = ramp = near = 0.0
    used = 1.0
    if scheme in WHOLE:
        kv_bytes, requests = heads * _whole(cold * pair_held(scheme, shape), store), float(heads)
    elif cold:
        row, universe, used = int(np.ceil(pair_held(scheme, shape))), cold, share
        record_bytes = cold * world.record_bytes(shape)
        if scheme == NESTED:
            row = max(1, int(np.ceil(pair - world.code_bits * shape.head_dim / 8)))
        if scheme == QUEST:
            # At best: every page that holds a survivor, and no other.
            row, universe = world.page * pair, cold / world.page
            record_bytes = universe * 2 * ELEMENT_BYTES * shape.head_dim
            fit = Tier("page", 1.0, 0.0, world.page)
            used = gather(cold, share, 1, fit, world.clustering)[1] / world.page / universe
        # Pages hold neighbours already: that they cluster further is left out.
        clustering = Clustering.none() if scheme == QUEST else world.clustering
        requests, kv_bytes, ramp = (heads * one for one in gather(universe, used, row, store, clustering))
        record_bytes = heads * _whole(record_bytes, store if scheme == NEAR else index)
        if scheme == NEAR:
            near_bytes, record_bytes = record_bytes, float(heads * _whole(_query(shape), store))
            near = near_bytes / (store.near_bandwidth or store.bandwidth)
    first = _first(fast, store if scheme == NEAR else index, heads, fast_bytes, record_bytes)
    depends = scheme not in (*WHOLE, NEAR)
    phase = world.phase if depends and kv_bytes else 0.0
    kv_seconds = near + phase + store.seconds(requests, kv_bytes, ramp)
    if scheme in WHOLE and store is fast:  # one scan: exact keys and cold ones follow one another
        first, kv_seconds = 0.0, fast.seconds(heads, fast_bytes + kv_bytes)
    weights = ELEMENT_BYTES * shape.layer_parameters / fast.bandwidth
    # Survivors are known once records and exact keys are read: only weights can be read meanwhile. Schemes that read
    # everything wait for no bounds.
    elsewhere = weights + (first if scheme in WHOLE else 0.0)
    hidden = 0.0 if store is fast else world.overlap * min(kv_seconds, elsewhere)
    each = {
        "stored_bytes": heads * context * _kept(scheme, shape, world), "fast_bytes": fast_bytes,
        "record_bytes": record_bytes, "kv_bytes": kv_bytes, "near_bytes": near_bytes,
        "link_bytes": fast_bytes + record_bytes + kv_bytes, "weights_seconds": weights, "record_seconds": first,
        "kv_seconds": kv_seconds, "hidden_seconds": hidden, "attention_seconds": first + kv_seconds - hidden,
        "step_seconds": weights + first + kv_seconds - hidden,
    }  # fmt: skip
    return {"share": used} | {name: shape.layers * float(value) for name, value in each.items()}


def _first(fast: Tier, index: Tier, heads: int, fast_bytes: float, record_bytes: float) -> float:
    """Exact keys and records: one after the other in one tier, side by side in two."""
    if index is fast:
        return fast.seconds(heads * (1 + (record_bytes > 0)), fast_bytes + record_bytes)
    records = index.seconds(heads, record_bytes) if record_bytes else 0.0
    return max(fast.seconds(heads, fast_bytes), records)


def held_in(scheme: str) -> str:
    """Type of the cache that a scheme reads from."""
    return _HELD.get(scheme, "fp16")


def pair_held(scheme: str, shape: ModelShape) -> float:
    """Bytes of one key and value as the scheme stores them."""
    return CACHE_TYPES[held_in(scheme)].pair_bytes(shape.head_dim, shape.head_dim)


def _kept(scheme: str, shape: ModelShape, world: MemoryModel) -> float:
    """Bytes of a token that memory must hold: nested records are part of the key, all but the residual norm."""
    if scheme in WHOLE:
        return pair_held(scheme, shape)
    bounds = 2 * ELEMENT_BYTES * shape.head_dim / world.page
    extra = {QUEST: bounds, NESTED: float(_RHO_BYTES)}.get(scheme, world.record_bytes(shape))
    return pair_held(scheme, shape) + extra


def _query(shape: ModelShape) -> float:
    """Query vectors of a group, which go to the memory once."""
    return shape.heads / shape.kv_heads * ELEMENT_BYTES * shape.head_dim
