"""Small tables of the stage `peers`, of selectors whose losses are made up."""

from __future__ import annotations

import itertools

import polars as pl

from ghostkv.files.io import write_table
from ghostkv.files.tables import table_of
from ghostkv.report.schemas import SCHEMAS
from ghostkv.stages.peers.schemas import CHOICE_SCHEMA, LAYER_SCHEMA, PEER_SCHEMA
from ghostkv.stages.peers.tables import compare, summarise, verdicts

# Loss at 1/8 of the bytes by selector, setting and column: (output error, dropped mass); None where not feasible.
LOSSES = {
    ("oracle_topk", "", "oracle", "alone"): (0.03, 0.03),
    ("quest", "page=16", "peer", "alone"): (0.4, 0.5),
    ("quest", "page=32", "peer", "alone"): (0.3, 0.4),
    ("pq", "bits=8", "peer", "alone"): (0.2, 0.03),
    ("pq", "bits=8", "peer", "compensated"): (0.06, 0.03),
    ("snapkv", "observe=4", "peer", "alone"): (0.04, 0.05),
    ("loki", "dims=16", "peer", "alone"): None,
    ("ghost", "bits=1.0", "record", "alone"): (0.05, 0.04),
    ("ghost", "bits=0.5", "record", "alone"): (0.01, 0.01),
    ("ghost", "", "ours", "alone"): (0.05, 0.04),
    ("ghost", "", "ours", "compensated"): (0.02, 0.04),
}
RATIOS = (0.0625, 0.125, 0.25)


def peer_tables(folder, domains=("prose", "code", "law"), has_values=True) -> dict[str, str]:
    """Paths of all tables, as the report's inputs name them."""
    rows = []
    for (who, losses), ratio, layer, head, (i, domain) in itertools.product(
        LOSSES.items(), RATIOS, (0, 1), (0, 1), enumerate(domains)
    ):
        row = dict(zip(("selector", "variant", "kind", "column"), who, strict=True)) | {
            "layer": layer, "head": head, "kv_head": 0, "text": f"{domain}_held_out_0", "domain": domain,
            "ratio": ratio, "feasible": losses is not None, "queries": 10,
        }  # fmt: skip
        if losses:
            error, mass = (x * (0.125 / ratio) * (1 + 0.02 * i + 0.05 * layer) for x in losses)
            row |= {"dropped_mass_mean": mass, "dropped_mass_p99": 2 * mass, "recall_32": 0.9, "fer": 0.1}
            row |= {"bytes_ratio_gqa": ratio, "index_ratio": 0.03, "constant_ratio": 0.001}
            if has_values:
                row |= {"output_error_mean": error, "output_error_p99": 3 * error}
        rows.append(row)
    peers = pl.from_arrow(table_of(rows, PEER_SCHEMA))
    layers = pl.from_arrow(table_of([row | {"heads": 2} for row in rows if row["head"] == 0], LAYER_SCHEMA))
    chosen = [
        {"layer": 0, "kv_head": 0, "column": column, "ratio": 0.125, "variant": "bits=1.0", "loss": 0.05}
        for column in ("alone", "compensated")
    ]
    comparison = compare(peers)
    tables = {
        "peers": peers, "layers": layers,
        "choice": pl.from_arrow(table_of(chosen, CHOICE_SCHEMA)),
        "summary": summarise(peers, layers), "comparison": comparison,
        "verdicts": verdicts(peers, comparison),
    }  # fmt: skip
    paths = {}
    folder.mkdir(parents=True, exist_ok=True)
    for name, table in tables.items():
        paths[f"peers_{name}"] = str(folder / f"{name}.parquet")
        write_table(table, paths[f"peers_{name}"], SCHEMAS["peers"][name])
    return paths
