"""Stage `bandwidth`, second half: the memory model fitted, checked, and asked what each scheme would cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ghostkv.files.io import read_metadata, read_table, write_table
from ghostkv.files.tables import table_of
from ghostkv.stages.bandwidth import step_times as model
from ghostkv.stages.bandwidth.schemes import MemoryModel, ModelShape
from ghostkv.stages.bandwidth.tables import MODEL_TABLES
from ghostkv.stages.bandwidth.tiers import Tier

_GIGA, _MICRO = 1e9, 1e-6
# Weights of a layer of the captured model, which its capture does not say: those of a transformer of that width.
_PARAMETERS_PER_SQUARE = 12


def model_bandwidth(inputs: Mapping[str, str], params: Mapping, outputs: Mapping[str, str]) -> None:
    """Fit and check the tiers of this machine, then model every scheme on every placement.

    Parameters
    ----------
    inputs : mapping
        Paths of `patterns`, `samples`, the frontier's `context`, and `layers` of a capture, which tells the shape of
        the model.
    params : mapping
        The config section `bandwidth`, `headline`, `sinks`, `hot`, `target_metric`, `target`, `model`, `code`.
    outputs : mapping
        Paths of the tables of `MODEL_TABLES`.
    """
    rows: dict[str, list[dict]] = {name: [] for name in MODEL_TABLES}
    patterns = read_table(inputs["patterns"])
    rows["fits"], rows["errors"], measured = model.check_fits(
        read_table(inputs["samples"]), params["measure"]["seed"]
    )
    captured = _captured(inputs["layers"], params)
    bands = model.bands(read_table(inputs["context"]), {**params, "pair_bytes": captured.pair_bytes})
    shares = model.survivors(bands, params["contexts"])
    rows["survivors"] = [{"shape": captured.name, **row} for row in shares]
    world = _world(params, captured, model.clustering(patterns))
    here, around = _this_machine(world, measured)
    context, fast = params["headline_context"], params["tiers"][0]["name"]
    slow = next((one["kv"] for one in params["placements"] if one["kv"] != fast), fast)
    share = model.share_at(shares, model.CONSTANT, context)
    for shape in (captured, ModelShape(**params["served"])):
        for placements, where in ((params["placements"], world), (around, here)):
            rows["steps"] += model.steps(shape, placements, shares, where)
            rows["crossings"] += model.crossings(shape, placements, shares, where, context)
        rows["maps"] += model.maps(shape, slow, world, context)
        rows["sensitivity"] += model.sensitivity(shape, params["placements"], share, world, context)
    metadata = read_metadata(inputs["samples"]) | {"fingerprint": str(params.get("code", ""))}
    for name, schema in MODEL_TABLES.items():
        write_table(table_of(rows[name], schema), outputs[name], schema, metadata)


def _captured(path: str, params: Mapping) -> ModelShape:
    row = read_table(path).row(0, named=True)
    heads, kv_heads, head_dim = row["heads"], row["kv_heads"], row["head_dim"]
    parameters = _PARAMETERS_PER_SQUARE * (heads * head_dim) ** 2
    return ModelShape(params["model"], len(params["layers"]), heads, kv_heads, head_dim, parameters)


def _world(params: Mapping, captured: ModelShape, clustering) -> MemoryModel:
    tiers = {
        tier["name"]: Tier(
            tier["name"], tier["gb_s"] * _GIGA, tier["latency_us"] * _MICRO, tier["unit"], tier["depth"],
            tier["overhead_us"] * _MICRO, near_bandwidth=tier["near_gb_s"] * _GIGA,
        )
        for tier in params["tiers"]
    }  # fmt: skip
    return MemoryModel(
        tiers,
        params["tiers"][0]["name"],
        params["sinks"] + params["hot"],
        8 * params["headline"]["bytes"] / captured.head_dim,
        params["overlap"],
        params["phase_us"] * _MICRO,
        params["quant_group"],
        params["page"],
        clustering,
    )


def _this_machine(world: MemoryModel, measured: Mapping[str, Tier]) -> tuple[MemoryModel, list[dict]]:
    """The same model on the tiers that were measured; a processor needs no kernel more between bounds and gather."""
    around = [{"name": "measured_dram", "kv": "dram", "records": "dram"}]
    if "disk_direct" in measured:
        around.append({"name": "measured_disk", "kv": "disk_direct", "records": "dram"})
    return replace(world, tiers=dict(measured), fast="dram", phase=0.0), around
