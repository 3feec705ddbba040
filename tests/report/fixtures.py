"""Small tables with the schemas of the real ones: a made-up model of two layers whose first head is dense."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path

import numpy as np
import polars as pl

from ghostkv.captures.capture_files import LAYER_SCHEMA
from ghostkv.config.experiment import load_config
from ghostkv.elimination.schemas import BOUND_SCHEMA, CONTEXT_SCHEMA, METRICS, POINT_SCHEMA
from ghostkv.files.io import write_table
from ghostkv.models.manifest import write_manifest
from ghostkv.report.document import Chapter
from ghostkv.report.headline import measure
from ghostkv.report.jobs import WriteReport
from ghostkv.report.results import Results
from ghostkv.report.schemas import SCHEMAS
from ghostkv.sources.texts import TEXT_SCHEMA
from ghostkv.stages.benchmark.schemas import OVERHEAD_SCHEMA, SPEED_SCHEMA
from ghostkv.stages.frontier.schemas import SWEEP_SCHEMA
from ghostkv.stages.frontier.summary_schemas import LAYER_HEAD_SCHEMA, SAFE_SCHEMA
from ghostkv.stages.frontier.tables import layer_head, safe_points
from ghostkv.stages.historical.schemas import COMPARISON_SCHEMA
from ghostkv.stages.historical.schemas import SWEEP_SCHEMA as HISTORICAL_SWEEP_SCHEMA
from ghostkv.stages.plan.schemas import COMPARED_SCHEMA
from tests.report.calibrated_fixtures import calibrated_tables
from tests.report.certificates_fixtures import certificate_tables
from tests.report.peers_fixtures import peer_tables

LAYERS, HEADS, KV_HEADS = (0, 1), (0, 1, 2, 3), 2
DOMAINS = ("essays", "code")
# How far each design is from knowing the scores; the oracle is.
DESIGNS = {("exact", 0): 0.0, ("gaussian", 8): 1.0, ("transform_code", 8): 0.25, ("transform_code", 16): 0.1}
RULES = ("relative_topk", "relative_lse")
TARGETS = (("fer", 0.01), ("fer", 0.05), ("dropped_mass", 0.01), ("dropped_mass", 0.05))
METADATA = {
    "model": "made-up",
    "weight_sha256": sha256().hexdigest(),
    "package_version": "0",
    "fingerprint": "f" * 64,
}
CONFIG = {
    "texts": {"domains": list(DOMAINS)},
    "sketch": {"codecs": [{"name": "gaussian", "bits": [1]}, {"name": "transform_code", "bits": [1, 2]}]},
}
DENSE = (0, 0)


def make_params(**changes) -> WriteReport:
    """The job as the workflow reads it; keywords replace fields."""
    config = load_config(CONFIG).plain()
    params = config["report"] | {"config": config, "layers": LAYERS, "head_dim": 64, "code": "c" * 64}
    params |= {"compared_layers": LAYERS, "impossible": (), "logs": "no such folder"}
    return WriteReport.read(params | changes)


def headline(results: Results, chapters: Iterable[Chapter]) -> dict[str, dict]:
    """The entries of `headline.json`, by name."""
    return {figure.name: figure.plain() for figure in measure(results, chapters).values()}


def metrics(push: float, blur: float, dense: bool, has_values: bool) -> dict:
    """All metrics at a threshold that eliminates more the larger `push` (0..1) is; a design's `blur` costs loss."""
    elimination = push * (0.2 if dense else 1.0)
    loss = (blur + 0.02) * push**4 * (3 if dense else 1)
    mass = 0.3 * push**6 * (1 + blur)
    found = dict.fromkeys((name for name, _ in METRICS), 0.0)
    found |= {
        "elimination": elimination,
        "fer": loss * 0.3,
        "fer_cold": loss,
        "lost_95": mass,
        "lost_99": mass,
    }
    found |= {"dropped_mass_mean": mass, "dropped_mass_p99": 2 * mass, "dropped_mass_max": 3 * mass}
    error = {"output_error_mean": 1.1 * mass, "output_error_p99": 2.5 * mass}
    found |= error if has_values else dict.fromkeys(error)
    record = 9 / 256 if blur else 0.0
    return found | {
        "bytes_ratio": 1 - elimination + record,
        "bytes_ratio_gqa": 1 - 0.8 * elimination + record,
    }


def _keys() -> list[dict]:
    rows = []
    for layer, head, (codec, size), rule in itertools.product(LAYERS, HEADS, DESIGNS, RULES):
        rows.append(
            {
                "layer": layer, "head": head, "kv_head": head // KV_HEADS, "codec": codec, "code_bytes": size,
                "record_bytes": size + 1 if size else 0, "rule": rule,
            }
        )  # fmt: skip
    return rows


def _text(domain: str, role: str, queries: int) -> dict:
    return {"text": f"{domain}_{role}_0", "domain": domain, "role": role, "queries": queries}


def _measured(key: dict, push: float, shift: float, has_values: bool) -> dict:
    blur = DESIGNS[key["codec"], key["code_bytes"]]
    return metrics(min(push + shift, 1.0), blur, (key["layer"], key["head"]) == DENSE, has_values)


def _push(key: dict, target: float) -> float:
    """A calibrated design with less blur may eliminate more."""
    return float(np.clip((target / (DESIGNS[key["codec"], key["code_bytes"]] + 0.02)) ** 0.25, 0.05, 0.99))


def sweep_rows(has_values: bool) -> list[dict]:
    return [
        key | _text(domain, role, queries) | {"theta": 2 * push - 2} | _measured(key, push, shift, has_values)
        for key in _keys()
        for (domain, shift), (role, queries) in itertools.product(
            zip(DOMAINS, (0.0, 0.01), strict=True), (("threshold", 48), ("held_out", 32))
        )
        for push in np.linspace(0, 1, 7)
    ]


def point_rows(has_values: bool) -> list[dict]:
    chosen = [
        (metric, target, method) for metric, target in TARGETS for method in ("calibrated", "hindsight")
    ]
    chosen += [("fer", 0.05, "safe"), ("fer", 0.05, "safe_hindsight")]
    rows = []
    for key, (domain, shift), (metric, target, method) in itertools.product(
        _keys(), zip(DOMAINS, (0.0, 0.01), strict=True), chosen
    ):
        push = _push(key, target * (0.5 if method == "safe" else 1.0))
        named = {"theta": push, "target_metric": metric, "target": target, "method": method}
        measured = _measured(key, push, shift, has_values)
        if "hindsight" in method:
            measured["bytes_ratio_gqa"] = None
        rows.append(key | _text(domain, "held_out", 32) | named | measured)
    return rows


def context_rows(has_values: bool) -> list[dict]:
    headline = [key for key in _keys() if key["codec"] == "exact" or key["code_bytes"] == 8]
    headline = [key for key in headline if key["rule"] == "relative_topk" and key["codec"] != "gaussian"]
    rows = []
    for key, domain, (metric, target), (start, stop) in itertools.product(
        headline, DOMAINS, TARGETS, ((256, 512), (512, 1024), (1024, 2048))
    ):
        push = _push(key, target) * (1 - 100 / start)
        about = {
            "theta": push,
            "target_metric": metric,
            "target": target,
            "band_start": start,
            "band_stop": stop,
        }
        measured = _measured(key, push, 0.0, has_values)
        rows.append(key | _text(domain, "held_out", 16) | about | {"cold_keys": start * 1.4 - 68} | measured)
    return rows


def bound_rows() -> list[dict]:
    return [
        {
            "layer": layer, "kv_head": kv_head, "codec": codec, "code_bytes": size, "record_bytes": size + 1,
            "text": f"{domain}_held_out_0", "domain": domain, "pairs": 1000, "violations": 0,
            "score_rmse": blur, "margin_mean": 8 * blur, "score_spread": 2.5,
        }
        for layer, kv_head, domain in itertools.product(LAYERS, range(KV_HEADS), DOMAINS)
        for (codec, size), blur in DESIGNS.items()
        if size
    ]  # fmt: skip


def comparison_rows(direction: str) -> list[dict]:
    knobs = ("none", "true_qk", "long_context", "fitted_codec")
    return [
        {
            "direction": direction, "step": step, "knob": knob, "fault": f"fault {step}", "remedy": f"remedy {step}",
            "elimination": 0.3 * step, "cold_share": 1.0, "eliminated_share": 0.3 * step, "safe_head_share": step / 3,
            "elimination_one_theta": None, "oracle_elimination": 0.48 if step < 2 else 0.99,
            "violation_rate": max(0.6 - 0.3 * step, 0), "rank_correlation": 0.3, "rank_correlation_uncentred": 0.8,
            "relevant_agreement": 0.7, "tokens": 61.75, "queries": 32, "heads": 8,
        }
        for step, knob in enumerate(knobs)
    ]  # fmt: skip


def layer_rows(proven: bool, error: float) -> list[dict]:
    return [
        {
            "layer": layer, "kind": "global", "window": 0, "scale": 0.125, "softcap": 0.0, "heads": len(HEADS),
            "kv_heads": KV_HEADS, "head_dim": 64, "value_dim": 64 if proven else 0, "tokens": 2048,
            "max_relative_error": error * (1 + layer), "mean_relative_error": error / 10,
            "layer_relative_error": error / 5, "exact_relative_error": error, "storage_relative_error": 5e-3,
            "unexplained_relative_error": error * (1 + layer),
            "recomputed": 640 if proven else 0,
        }
        for layer in LAYERS
    ]  # fmt: skip


def speed_rows(speedup: float) -> list[dict]:
    rows = []
    for thetas, repeat, with_output in itertools.product((19, 1000), (0, 1), (False, True)):
        looped = thetas == 19
        rows.append(
            {
                "thetas": thetas, "repeat": repeat, "pairs": 10_000, "sweep_seconds": 0.01 + repeat * 0.001,
                "loop_seconds": 0.01 * speedup if looped and not with_output else None,
                "by_theta_seconds": 0.1 if looped else None,
                "ratio": speedup + repeat if looped and not with_output else None,
                "by_theta_ratio": 10.0 if looped else None, "with_output_error": with_output,
                "identical_counts": True if looped else None,
            }
        )  # fmt: skip
    return rows


def text_rows() -> list[dict]:
    return [
        {
            "text": f"{domain}_{role}_0", "domain": domain, "role": role, "documents": [f"{domain} {role}"],
            "tokens": 2048, "sha256": "a" * 64, "source": "a wheel", "license": "MIT", "content": "words",
        }
        for domain, role in itertools.product(DOMAINS, ("codec", "threshold", "held_out"))
    ]  # fmt: skip


def compared_rows() -> list[dict]:
    """A plan that is right about one stage, and of another says too much memory and too little CPU."""
    planned = {
        ("capture", "cpu_seconds"): 10.0,
        ("frontier", "cpu_seconds"): 5.0,
        ("frontier", "memory_gb"): 15.0,
    }
    return [
        {
            "stage": stage,
            "quantity": quantity,
            "jobs": 2,
            "planned": value,
            "measured": 10.0,
            "ratio": value / 10,
        }
        for (stage, quantity), value in planned.items()
    ]


def make_tables(
    folder: Path, imported: bool = False, error: float = 1e-6, speedup: float = 80.0, overhead: float = 1.2
) -> dict[str, str | list[str]]:
    """Write every table of a run below `folder` and return their paths as the workflow names them.

    With `imported` the run started from tensors without values: no model, no texts, no output errors, no history.
    """
    has_values = not imported
    points = _write(folder, "frontier/points", point_rows(has_values), POINT_SCHEMA)
    frame = pl.read_parquet(points)
    tables: dict[str, str | list[str]] = {
        "frontier_points": points,
        "frontier_sweep": _write(folder, "frontier/sweep", sweep_rows(has_values), SWEEP_SCHEMA),
        "frontier_context": _write(folder, "frontier/context", context_rows(has_values), CONTEXT_SCHEMA),
        "frontier_bounds": _write(folder, "frontier/bounds", bound_rows(), BOUND_SCHEMA),
        "frontier_safe_points": _write(
            folder, "frontier/safe_points", safe_points(frame, 0.05, 0.30), SAFE_SCHEMA
        ),
        "frontier_layer_head": _write(folder, "frontier/layer_head", layer_head(frame), LAYER_HEAD_SCHEMA),
        "benchmark_sweep_speed": _write(folder, "benchmark/sweep_speed", speed_rows(speedup), SPEED_SCHEMA),
        "capture_layers": [
            _write(folder, f"capture/{name}/layers", layer_rows(not imported, error), LAYER_SCHEMA, text=name)
            for name in ("essays_held_out_0", "code_held_out_0")
        ],
    }
    for name, (rows, schema) in calibrated_tables(LAYERS, HEADS, DOMAINS, has_values).items():
        tables[f"calibrated_{name}"] = _write(folder, f"calibrated/{name}", rows, schema)
    for name, (rows, schema) in certificate_tables(LAYERS, HEADS, DOMAINS, has_values).items():
        tables[f"certificates_{name}"] = _write(folder, f"certificates/{name}", rows, schema)
    # The run beside is of the same tables, of a model that has another name.
    tables |= {
        f"beside_{stage}": _write(
            folder, f"beside/{stage}", pl.read_parquet(tables[f"{stage}_context"]), schema, model="another"
        )
        for stage, schema in SCHEMAS["beside"].items()
    }
    tables |= peer_tables(folder / "peers", DOMAINS, has_values)
    tables["plan_compared"] = _write(folder, "plan/compared", compared_rows(), COMPARED_SCHEMA)
    return tables if imported else tables | _of_a_model(folder, overhead)


def _of_a_model(folder: Path, overhead: float) -> dict[str, str]:
    (folder / "model").mkdir(exist_ok=True)
    facts = {"model": "made-up", "architecture": "LlamaForCausalLM", "layers": 2, "heads": 4, "kv_heads": 2}
    write_manifest(folder / "model", facts | {"head_dim": 64, "license": "none", "source": "random"})
    seconds = [
        {"pair": pair, "tokens": 256, "queries": 16, "threads": 1, "plain_seconds": 1.0, "ratio": ratio}
        | {"capture_seconds": ratio}
        for pair, ratio in enumerate((overhead, overhead + 0.1, overhead - 0.1))
    ]
    history = [
        {"layer": 0, "head": 0, "sketch_dim": 8, "theta": 0.05, "elimination": 0.5, "fer": 0.3}
        | {"violation_rate": 0.6, "queries": 32}
    ]
    alone = comparison_rows("from_historical") + comparison_rows("from_correct")
    return {
        "model_manifest": str(folder / "model/manifest.json"),
        "texts_texts": _write(folder, "texts/texts", text_rows(), TEXT_SCHEMA),
        "benchmark_capture_overhead": _write(folder, "benchmark/capture_overhead", seconds, OVERHEAD_SCHEMA),
        "historical_sweep": _write(folder, "historical/sweep", history, HISTORICAL_SWEEP_SCHEMA),
        "historical_ablation": _write(
            folder, "historical/ablation", comparison_rows("cumulative"), COMPARISON_SCHEMA
        ),
        "historical_knobs": _write(folder, "historical/knobs", alone, COMPARISON_SCHEMA),
    }


def _write(folder: Path, name: str, rows: list[dict] | pl.DataFrame, schema, **metadata: str) -> str:
    frame = rows if isinstance(rows, pl.DataFrame) else pl.DataFrame(rows, infer_schema_length=None)
    path = folder / f"{name}.parquet"
    write_table(frame, path, schema, METADATA | metadata)
    return str(path)
