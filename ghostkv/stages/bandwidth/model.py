"""Stage `bandwidth`, second half: the memory model fitted, checked, and asked what each scheme would cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from ghostkv.captures.capture_files import LAYER_SCHEMA
from ghostkv.elimination.schemas import CONTEXT_SCHEMA
from ghostkv.files.io import read_table
from ghostkv.files.provenance import inherited
from ghostkv.files.tables import Tables
from ghostkv.stages.bandwidth import step_times as model
from ghostkv.stages.bandwidth.equal_loss import Losses, crossings
from ghostkv.stages.bandwidth.schemas import LOSS_SCHEMA, MODEL_SCHEMAS, PATTERN_SCHEMA, SAMPLE_SCHEMA
from ghostkv.stages.bandwidth.schemes import MemoryModel, ModelShape
from ghostkv.stages.bandwidth.tiers import Tier

if TYPE_CHECKING:
    from ghostkv.stages.bandwidth.jobs import ModelBandwidth

_GIGA, _MICRO = 1e9, 1e-6
# Weights of a layer of the captured model, which its capture does not say: those of a transformer of that width.
_PARAMETERS_PER_SQUARE = 12


def model_bandwidth(job: ModelBandwidth, inputs: Mapping[str, str], outputs: Mapping[str, str]) -> None:
    """Fit and check the tiers of this machine, then model every scheme on every placement.

    Of the inputs, `context` is the frontier's table, and `layers` of a capture tells the shape of the model. The frontier's bands
    say how survivors go with the context; where the point is a dropped mass, `losses` says how many they are.
    """
    tables, patterns = Tables(MODEL_SCHEMAS), read_table(inputs["patterns"], PATTERN_SCHEMA)
    fits, errors, measured = model.check_fits(read_table(inputs["samples"], SAMPLE_SCHEMA), job.seed)
    tables.add_rows("fits", fits)
    tables.add_rows("errors", errors)
    captured = _captured(inputs["layers"], job)
    bands = model.bands(read_table(inputs["context"], CONTEXT_SCHEMA), job, captured.pair_bytes)
    losses = Losses.of(read_table(inputs["losses"], LOSS_SCHEMA))
    point = losses.at("fp16", job.target_metric, job.target) if job.target_metric == "dropped_mass" else None
    shares = model.survivors(bands, job.contexts, point and point.share)
    tables.add_rows("survivors", [{"shape": captured.name, **row} for row in shares])
    world = _world(job, captured, model.clustering(patterns))
    here, around = _this_machine(world, measured)
    context, fast = job.headline_context, job.tiers[0].name
    slow = next((one["kv"] for one in job.placements if one["kv"] != fast), fast)
    share = model.share_at(shares, model.CONSTANT, context)
    for shape in (captured, ModelShape(**job.served.plain())):
        for placements, where in ((job.placements, world), (around, here)):
            tables.add_rows("steps", model.steps(shape, placements, shares, where))
            tables.add_rows(
                "crossings", crossings(shape, placements, shares, losses, job.masses, where, context)
            )
        tables.add_rows("maps", model.maps(shape, slow, world, context))
        tables.add_rows("sensitivity", model.sensitivity(shape, job.placements, share, world, context))
    tables.write(outputs, inherited(inputs["samples"], job.code))


def _captured(path: str, job: ModelBandwidth) -> ModelShape:
    row = read_table(path, LAYER_SCHEMA).row(0, named=True)
    heads, kv_heads, head_dim = row["heads"], row["kv_heads"], row["head_dim"]
    parameters = _PARAMETERS_PER_SQUARE * (heads * head_dim) ** 2
    return ModelShape(job.model, len(job.layers), heads, kv_heads, head_dim, parameters)


def _world(job: ModelBandwidth, captured: ModelShape, clustering) -> MemoryModel:
    tiers = {
        tier.name: Tier(
            tier.name, tier.gb_s * _GIGA, tier.latency_us * _MICRO, tier.unit, tier.depth,
            tier.overhead_us * _MICRO, near_bandwidth=tier.near_gb_s * _GIGA,
        )
        for tier in job.tiers
    }  # fmt: skip
    exact, code_bits = job.sinks + job.hot, 8 * job.headline.code_bytes / captured.head_dim
    plan = job.overlap, job.phase_us * _MICRO, job.page
    return MemoryModel(tiers, job.tiers[0].name, exact, code_bits, *plan, clustering)


def _this_machine(world: MemoryModel, measured: Mapping[str, Tier]) -> tuple[MemoryModel, list[dict]]:
    """The same model on the tiers that were measured; a processor needs no kernel more between bounds and gather."""
    around = [{"name": "measured_dram", "kv": "dram", "records": "dram"}]
    if "disk_direct" in measured:
        around.append({"name": "measured_disk", "kv": "disk_direct", "records": "dram"})
    return replace(world, tiers=dict(measured), fast="dram", phase=0.0), around
