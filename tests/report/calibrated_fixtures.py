"""Small tables of the stage `calibrated` for the made-up model of `tests.report.fixtures`."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import polars as pl

from ghostkv.config.calibrated import Validity
from ghostkv.stages.calibrated.conformal import DECISIONS
from ghostkv.stages.calibrated.high_probability import METHODS
from ghostkv.stages.calibrated.schemas import (
    BAND_SCHEMA,
    CROSS_SCHEMA,
    EXCHANGEABILITY_SCHEMA,
    HIGH_SCHEMA,
    LEARNED_SCHEMA,
    MONITORED_SCHEMA,
    POINT_SCHEMA,
    RESAMPLED_SCHEMA,
    TEXT_SCHEMA,
)
from ghostkv.stages.calibrated.summary_schemas import SUMMARY_SCHEMAS
from ghostkv.stages.calibrated.tables import summarise_dependence, summarise_points
from ghostkv.stages.calibrated.validity import DRAWS
from ghostkv.stages.calibrated.validity_tables import (
    summarise_alarms,
    summarise_alike,
    summarise_surely,
    summarise_validity,
)

QUERIES, FLOOR = 32, 1 / 97
_GOALS = [("fer", "none", 0.01), ("fer", "none", 0.05), ("dropped_mass", "none", 0.01)]
_GOALS += [("dropped_mass", "none", 0.05)]
_OUTPUT = [("output_error", kind, 0.05) for kind in ("none", "mean", "pages")]
_SHARED = [("fer", "none", 0.01), ("dropped_mass", "none", 0.05)]


def _row(layer, head, size, rule, goal, codec="transform_code") -> dict:
    metric, kind, target = goal
    return {
        "layer": layer, "head": head, "kv_head": head // 2, "codec": codec, "code_bytes": size,
        "record_bytes": size + 1, "rule": rule, "target_metric": metric, "compensation": kind, "target": target,
        "guaranteed_if_exchangeable": metric != "output_error", "floor": FLOOR, "calibration_queries": 96, "theta": -0.3,
    }  # fmt: skip


def _measured(layer, head, size, goal, has_values, push=1.0) -> dict:
    metric, kind, target = goal
    loss = target * (0.5 + 0.1 * head + 0.3 * layer) * push
    elimination = 0.95 - 0.05 * layer - 0.1 / size + (0.02 if kind != "none" else 0)
    error = loss if has_values else None
    return {
        "achieved": loss, "elimination": elimination, "fer": loss, "fer_cold": loss, "dropped_mass_mean": loss,
        "dropped_mass_p99": 2 * loss, "output_error_mean": error, "output_error_p99": error,
        "output_error_compensated_mean": error, "output_error_pages_mean": error,
        "bytes_ratio": 1.1 - elimination + size / 256, "bytes_ratio_gqa": 1.15 - elimination + size / 256,
    }  # fmt: skip


def point_rows(layers, heads, domains, has_values: bool) -> list[dict]:
    rows = []
    output = _OUTPUT if has_values else []
    for layer, head, domain in itertools.product(layers, heads, domains):
        about = {"text": f"{domain}_held_out_0", "domain": domain, "queries": QUERIES}
        for size, rule in itertools.product((4, 8, 10, 16), ("relative_topk", "relative_lse")):
            for goal in [*_GOALS, *(output if size == 8 else [])]:
                row = _row(layer, head, size, rule, goal) | about | {"decision": "head"}
                rows.append(row | _measured(layer, head, size, goal, has_values))
        for rule, goal, decision in itertools.product(
            ("relative_topk", "relative_lse"), _SHARED, DECISIONS[1:]
        ):
            row = _row(layer, head, 8, rule, goal) | about | {"decision": decision}
            rows.append(row | _measured(layer, head, 8, goal, has_values, 0.7))
        if layer == layers[0]:
            for rule, goal in itertools.product(("relative_topk", "relative_lse"), _GOALS):
                row = _row(layer, head, 8, rule, goal, "learned") | about | {"decision": "head"}
                rows.append(row | _measured(layer, head, 8, goal, has_values))
    return rows


def band_rows(layers, heads, domains, has_values: bool) -> list[dict]:
    return [
        _row(layer, head, 8, "relative_topk", goal)
        | {"text": f"{domain}_held_out_0", "domain": domain, "queries": 16, "cold_keys": start * 1.4}
        | {"band_start": start, "band_stop": 2 * start}
        | _measured(layer, head, 8, goal, has_values, push)
        for layer, head, domain in itertools.product(layers, heads, domains)
        for goal in _GOALS
        for start, push in ((512, 0.5), (1024, 1.0))
    ]


def cross_rows(layers, heads, domains: Sequence[str]) -> list[dict]:
    rows = []
    for layer, head, source, tested, goal in itertools.product(layers, heads, domains, domains, _SHARED):
        row = _row(layer, head, 8, "relative_topk", goal)
        row |= {"calibrated_on": source, "tested_on": tested, "queries": QUERIES}
        row |= {
            "method": "conformal" if goal[0] == "dropped_mass" else "plug_in",
            "guaranteed_if_exchangeable": source == tested,
        }
        push = 1.0 if source == tested else 1.7
        measured = _measured(layer, head, 8, goal, False, push)
        rows.append(row | {name: measured[name] for name in ("achieved", "elimination")})
    return rows


def text_rows(layers, heads, domains) -> list[dict]:
    rows = []
    for layer, head, domain, role in itertools.product(layers, heads, domains, ("threshold", "held_out")):
        for goal in _GOALS:
            row = _row(layer, head, 8, "relative_topk", goal)
            row = {name: row[name] for name in TEXT_SCHEMA.names if name in row}
            risk = goal[2] * (0.5 + 0.4 * (domain == domains[0]))
            row |= {"text": f"{domain}_{role}_0", "domain": domain, "role": role, "queries": QUERIES}
            rows.append(row | {"risk_mean": risk, "risk_variance": risk / 8})
    return rows


def validity_rows(layers, heads, domains) -> dict[str, list[dict]]:
    """Rows of the tables on what promises are worth, by name."""
    found = {"high_probability": [], "resampled": [], "exchangeability": [], "monitored": []}
    for layer, head, goal in itertools.product(layers, heads, _GOALS):
        row = _row(layer, head, 8, "relative_topk", goal)
        for domain, (method, push) in itertools.product(domains, zip(METHODS, (1.0, 0.4, 0.8), strict=True)):
            about = {"text": f"{domain}_held_out_0", "domain": domain, "queries": QUERIES, "method": method}
            found["high_probability"].append(row | about | _measured(layer, head, 8, goal, False, push))
        for draw, method in itertools.product(DRAWS, METHODS[:2]):
            above = {"queries": 0.02, "texts": 0.08, "split": 0.2}[draw] * (3 if method == METHODS[0] else 1)
            numbers = {"queries": 96, "promising": 1.0, "above": above, "risk": goal[2] * (0.6 + above)}
            found["resampled"].append(row | {"draw": draw, "method": method} | numbers)
        for domain, role in itertools.product(domains, ("threshold", "held_out")):
            about = {"text": f"{domain}_{role}_0", "domain": domain, "role": role, "queries": QUERIES}
            risk = goal[2] * (0.5 + 0.4 * (domain == domains[0]) + 0.01 * head)
            found["exchangeability"].append(row | about | {"risk_mean": risk, "p_queries": 0.002})
    for layer, source, domain in itertools.product(layers, [*domains, "all"], domains):
        row = _row(layer, heads[0], 8, "relative_topk", ("dropped_mass", "none", 0.05))
        losses = [0.05 * (1.0 if domain == source else 4.0)] * QUERIES
        about = {"calibrated_on": source, "text": f"{domain}_held_out_0", "domain": domain}
        found["monitored"].append(row | about | {"positions": list(range(QUERIES)), "losses": losses})
    return found


def learned_rows(layers, domains) -> list[dict]:
    return [
        {
            "layer": layers[0], "kv_head": 0, "codec": codec, "code_bytes": 8, "record_bytes": 9,
            "text": f"{domain}_held_out_0", "domain": domain, "pairs": 1000, "violations": 0, "score_rmse": 0.8,
            "margin_mean": 6.0, "score_spread": 2.5, "loss_first": first, "loss_last": last, "steps": steps,
        }
        for (codec, first, last, steps), domain in itertools.product(
            (("transform_code", None, None, 0), ("learned", 12.0, 9.0, 80)), domains
        )
    ]  # fmt: skip


def calibrated_tables(layers, heads, domains, has_values: bool) -> dict[str, tuple[pl.DataFrame, object]]:
    """Every table of the stage with its schema, by name."""

    def frame(rows: list[dict], schema) -> pl.DataFrame:
        found = pl.DataFrame(rows, infer_schema_length=None).select(schema.names)
        return pl.from_arrow(found.to_arrow().cast(schema))

    points = frame(point_rows(layers, heads, domains, has_values), POINT_SCHEMA)
    texts = frame(text_rows(layers, heads, domains), TEXT_SCHEMA)
    validity = Validity()
    dependence = summarise_dependence(texts, validity.failure)
    schemas = {"high_probability": HIGH_SCHEMA, "resampled": RESAMPLED_SCHEMA}
    schemas |= {"exchangeability": EXCHANGEABILITY_SCHEMA, "monitored": MONITORED_SCHEMA}
    rows = validity_rows(layers, heads, domains)
    promises = {name: frame(rows[name], schema) for name, schema in schemas.items()}
    summaries = {
        "summary": summarise_points(points, dependence),
        "dependence": dependence,
        "validity": summarise_validity(promises["resampled"], validity),
        "surely": summarise_surely(promises["high_probability"]),
        "alike": summarise_alike(promises["exchangeability"], validity),
        "alarms": summarise_alarms(promises["monitored"], validity),
    }
    return {
        "calibrated": (points, POINT_SCHEMA),
        "bands": (frame(band_rows(layers, heads, domains, has_values), BAND_SCHEMA), BAND_SCHEMA),
        "cross_domain": (frame(cross_rows(layers, heads, domains), CROSS_SCHEMA), CROSS_SCHEMA),
        "texts": (texts, TEXT_SCHEMA),
        "learned": (frame(learned_rows(layers, domains), LEARNED_SCHEMA), LEARNED_SCHEMA),
        **{name: (promises[name], schema) for name, schema in schemas.items()},
        **{name: (summaries[name], schema) for name, schema in SUMMARY_SCHEMAS.items()},
    }
