"""Small tables of the stage `certificates`, with made-up rates."""

from __future__ import annotations

import itertools

from ghostkv.stages.certificates.schemas import CERTIFICATE_SCHEMA, CHECK_SCHEMA, CONTEXT_SCHEMA

# Oracle elimination, certified elimination and bytes ratio of the cascade by target; 0 is the top-k.
RATES = {
    0.0: (0.99, 0.97, 0.09),
    0.05: (0.90, 0.88, 0.19),
    0.01: (0.80, 0.75, 0.30),
    0.001: (0.60, 0.50, 0.50),
}


def certificate_tables(
    layers, heads, domains, has_values=True, violations=0, by_chance=(0, 0)
) -> dict[str, tuple]:
    """Rows and schema of each table; layer 0 is denser than the others; `by_chance` breaks levels of the dithered record."""
    rows, contexts, checks = [], [], []
    designs = (("nested", "nested"), ("nested", "additive"), ("page_box", "additive"))
    for layer, head, domain, (design, storage) in itertools.product(layers, heads, domains, designs):
        about = {"layer": layer, "kv_head": head // 2, "text": f"{domain}_held_out_0", "domain": domain}
        decisions = ("head", "group") if design == "nested" else ("head",)
        for (target, (oracle, certified, ratio)), decision in itertools.product(RATES.items(), decisions):
            if decision == "group" and not target:
                continue
            # A group leaves out less than its heads do, and reads less than all that they do.
            share, united = (0.8, 1.2) if decision == "group" else (1.0, 1.3)
            oracle, certified = oracle * share, certified * share
            mass, sparse = target > 0, 0.5 if layer == 0 and target else 1.0
            weak = 0.02 if design == "page_box" else 1.0
            extra = 0.02 * (storage == "additive")
            row = about | {
                "head": head,
                "design": design,
                "storage": storage,
                "decision": decision,
                "record_bytes": 70.0,
                "queries": 10,
            }
            row |= {"certificate": "mass" if mass else "topk", "target": target}
            row |= {"elimination": certified * sparse * weak, "values_unread": certified * sparse}
            row |= {"oracle_elimination": oracle * sparse, "bytes_ratio": ratio / sparse + extra}
            row |= {
                "bytes_ratio_gqa": united * ratio / sparse,
                "fallback": 0.0,
                "checks": 10,
                "violations": 0,
            }
            row |= {"dropped_mass_mean": 0.6 * target, "dropped_mass_max": 0.9 * target} if mass else {}
            row |= {"certified_mass_mean": target} if mass else {}
            row |= (
                {"output_error_mean": target, "output_error_bound_mean": 9 * target}
                if mass and has_values
                else {}
            )
            if design == "nested":
                row |= {"oracle_bytes_ratio": 0.5 * ratio, "oracle_bytes_ratio_gqa": 0.8 * ratio * share}
                row["constants_bytes_ratio"] = 0.07
                row["kept_bytes_ratio_gqa"] = 0.9 * ratio if decision == "group" else None
            if design == storage == "nested":
                band = {"window": 0, "band_start": 2048, "band_stop": 4096, "cold_keys": 3000.0}
                contexts.append({field.name: (row | band).get(field.name) for field in CONTEXT_SCHEMA})
            rows.append({field.name: row.get(field.name) for field in CERTIFICATE_SCHEMA})
        for what in ("margin", "topk", "mass", *(["output"] if has_values else [])):
            broken = violations if what == "margin" and layer == head == 0 else 0
            check = about | {"design": design, "what": what, "level": 1 if what == "margin" else None}
            checks.append(check | {"checks": 1000, "violations": broken})
    for level, broken in enumerate(by_chance, start=1):
        check = about | {"design": "dithered", "what": "margin", "level": level}
        checks.append(check | {"checks": 1000, "violations": broken})
    return {
        "certificates": (rows, CERTIFICATE_SCHEMA), "context": (contexts, CONTEXT_SCHEMA), "checks": (checks, CHECK_SCHEMA)
    }  # fmt: skip
