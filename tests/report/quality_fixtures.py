"""Tables of stage `quality` in which every gate is reached."""

from ghostkv.config.experiment import Config
from ghostkv.files.io import write_table
from ghostkv.files.tables import table_of
from ghostkv.report.results import Results
from ghostkv.runtime.writing import WRITING_SCHEMA
from ghostkv.stages.quality.schemas import (
    ABLATION_SCHEMA,
    DENSE_SCHEMA,
    IDENTITY_SCHEMA,
    POSITION_SCHEMA,
)
from ghostkv.stages.quality.summary_schemas import EQUAL_BYTES_SCHEMA, SUMMARY_SCHEMA
from tests.report.fixtures import make_params

SCHEMAS = {
    "dense": DENSE_SCHEMA,
    "identity": IDENTITY_SCHEMA,
    "positions": POSITION_SCHEMA,
    "summary": SUMMARY_SCHEMA,
    "equal_bytes": EQUAL_BYTES_SCHEMA,
    "ablation": ABLATION_SCHEMA,
    "generations": WRITING_SCHEMA,
}
START = 3840
# Label -> role, kind, family, bytes, KL.
POLICIES = {
    "identity": ("identity", "identity", "identity", 1.01, 0.0),
    "mass_1pct": ("mass", "certified", "certified_mass", 0.9, 5e-4),
    "ghost_029": ("budget", "ours", "ghost", 0.29, 0.002),
    "ghost_010": (None, "ours", "ghost", 0.1, 0.01),
    "quest_016": (None, "peer", "quest", 0.27, 0.02),
    "quest_026": (None, "peer", "quest", 0.4, 0.0),
    "int8": (None, "peer", "quantised_int", 0.54, 1e-4),
    "int4": (None, "peer", "quantised_int", 0.32, 4e-3),
    "over_int8": (None, "ours", "ghost_cache_int8", 0.14, 7e-4),
    "over_int4": (None, "ours", "ghost_cache_int4", 0.2, 1e-4),
}


def make_rows(domains=("prose", "code")):
    rows = {name: [] for name in SCHEMAS}
    differences = {"prefill_difference": 0.0, "block_difference": 3e-5, "step_difference": 1e-5}
    rows["identity"] = [
        {"text": f"{domain}_0", "domain": domain, "bound": 4e-3} | differences for domain in domains
    ]
    rows["dense"] = [{"policy": "calibrated_1pct", "layer": 0, "kv_head": 2, "bytes_ratio_gqa": 1.02}]
    for label, (role, kind, family, ratio, kl) in POLICIES.items():
        who = {"policy": label, "role": role}
        for number, domain in enumerate(("all", *domains)):
            n = 64 * len(domains) if domain == "all" else 64
            row = who | {"kind": kind, "family": family, "domain": domain, "documents": n // 64}
            row |= {
                "positions": n,
                "kl": kl + number / 1000,
                "kl_low": kl / 2,
                "kl_high": kl * 2,
                "top1": 0.99,
            }
            row |= {"dense_perplexity": 9.0, "sparse_perplexity": 9.1, "kl_p99": kl, "kl_max": kl}
            row |= {"max_logit_difference": 2e-5 if role == "identity" else 3.0, "kept_fraction": 0.2}
            bound = 0.0098 if kind == "certified" else None
            row |= {"prefill": "dense", "certified": bound, "violated": 0}
            rows["summary"].append(
                row | {"bytes_ratio": ratio / 2, "bytes_ratio_gqa": ratio, "certificate": "none"}
            )
            if kind == "ours":
                for against, times in (("oracle_mass", 0.5), ("quest", 8.0 + number)):
                    compared = who | {
                        "against": against,
                        "against_kind": "peer" if against == "quest" else "oracle",
                        "domain": domain,
                        "bytes_ratio_gqa": ratio,
                        "kl": kl,
                    }
                    compared |= {"lowest": 0.08, "highest": 0.4, "their_kl": kl * times, "kl_ratio": times}
                    compared |= {"kl_ratio_low": times - 1, "kl_ratio_high": times + 1, "top1": 0.99}
                    rows["equal_bytes"].append(compared | {"their_top1": 0.9, "positions": n})
        for domain in domains:
            text = {"text": f"{domain}_0", "domain": domain, "policy": label}
            said = {
                "token": "a|b",
                "dense_top": "\n",
                "sparse_top": None,
                "dense_margin": 0.1,
                "dense_entropy": 2.0,
            }
            for step in range(64):
                near = kl * (1 + (step >= 32)) + (step == 63) / 1000
                rows["positions"].append(text | said | {"position": START + step, "kl": near, "agree": True})
            for first in (0, 5) if label == "ghost_010" else ():
                band = {
                    "first_layer": first,
                    "last_layer": first + 4,
                    "kl": 0.0,
                    "top1": 1.0,
                    "positions": 16,
                }
                rows["ablation"].append(text | band | {"bytes_ratio_gqa": 0.1})
            wrote = {"output": "one |\n two", "tokens": 32, "same": 7, "bytes_ratio_gqa": ratio}
            rows["generations"] += [text | wrote] if role == "budget" else []
    return rows


def write(folder, rows):
    paths = {f"quality_{name}": str(folder / f"{name}.parquet") for name in SCHEMAS}
    for name, schema in SCHEMAS.items():
        write_table(table_of(rows[name], schema), paths[f"quality_{name}"], schema)
    return Results(paths, make_params(config=Config().plain()))


def changed(folder, table, where, **values):
    """Results where the rows that say `where` say something else."""
    rows = make_rows()
    hit = [row for row in rows[table] if where.items() <= row.items()]
    assert hit
    for row in hit:
        row |= values
    return write(folder, rows)
