"""The tables of the comparison at equal bytes: rows per head, intervals over documents, verdicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl
from scipy.special import stdtrit

from ghostkv.elimination.metrics import upper_quantile
from ghostkv.files.tables import table_of
from ghostkv.stages.peers.schemas import MEANS, METRICS
from ghostkv.stages.peers.summary_schemas import COMPARISON_SCHEMA, SUMMARY_SCHEMA, VERDICT_SCHEMA

COMPARED = ("output_error_mean", "dropped_mass_mean")
SHOWN = tuple(name for name, _ in METRICS)
_WHO = ["selector", "variant", "kind"]
_CONFIDENCE = 0.95


def head_rows(
    keys: Mapping, heads: np.ndarray, queries: Mapping[str, np.ndarray], ratios, feasible
) -> list[dict]:
    """Rows of `PEER_SCHEMA` from per-query arrays of shape [ratios, group, queries]."""
    rows = []
    for r, ratio in enumerate(ratios):
        for g, head in enumerate(heads):
            measured = {name: values[r, g] for name, values in queries.items()} if feasible[r] else {}
            rows.append(
                {**keys, "ratio": ratio, "feasible": bool(feasible[r]), "head": int(head)} | _pool(measured)
            )
    return rows


def layer_rows(keys: Mapping, queries: Mapping[str, np.ndarray], ratios, feasible) -> list[dict]:
    """Rows of `LAYER_SCHEMA` from per-query arrays of shape [ratios, heads, queries]."""
    rows = []
    for r, ratio in enumerate(ratios):
        measured = {name: values[r] for name, values in queries.items()} if feasible[r] else {}
        row = {**keys, "ratio": ratio, "feasible": bool(feasible[r])}
        row |= _pool({name: values.ravel() for name, values in measured.items()})
        if "output_error" in measured:
            row["output_error_worst_head"] = float(measured["output_error"].mean(axis=1).max())
        rows.append(row)
    return rows


def _pool(measured: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Means and tails of values over queries."""
    row = {}
    for name in MEANS:
        if name not in measured:
            continue
        tailed = name in ("dropped_mass", "output_error")
        row[f"{name}_mean" if tailed else name] = float(measured[name].mean())
        if tailed:
            row[f"{name}_p99"] = float(upper_quantile(measured[name], 0.99, axis=0))
    return row


def interval(documents: Sequence[float]) -> tuple[float, float | None, float | None]:
    """Mean and 95 % Student interval of independent values; no interval for a single one.

    With three documents the quantile is 4.3 standard errors: such an interval is wide, and should be.
    """
    values = np.asarray(documents, float)
    mean = float(values.mean())
    if len(values) < 2:
        return mean, None, None
    reach = float(stdtrit(len(values) - 1, 0.5 + _CONFIDENCE / 2)) * values.std(ddof=1) / np.sqrt(len(values))
    return mean, mean - reach, mean + reach


def summarise(peers: pl.DataFrame, layers: pl.DataFrame) -> pl.DataFrame:
    """Means with intervals over documents and the spread over heads, all domains together and each alone."""
    # p99s pool a layer's queries; all other metrics are means that heads share equally.
    source = {name: layers if name.endswith("_p99") else peers for name in SHOWN}
    rows = []
    for domain in ["all", *peers["domain"].unique(maintain_order=True).to_list()]:
        inside = pl.lit(True) if domain == "all" else pl.col("domain") == domain
        for who, group in peers.filter(inside).group_by([*_WHO, "ratio"], maintain_order=True):
            about = dict(zip([*_WHO, "ratio"], who, strict=True)) | {"domain": domain}
            about |= {
                "documents": group["text"].n_unique(),
                "heads": group.select("layer", "head").n_unique(),
                "queries": int(group["queries"].sum()),
                "feasible_share": float(group["feasible"].mean()),
            }
            same = [pl.col(name) == about[name] for name in [*_WHO, "ratio"]]
            for metric in SHOWN:
                chosen = group if source[metric] is peers else layers.filter(inside, *same)
                rows.append(about | {"metric": metric} | _spread(chosen, metric))
    return pl.from_arrow(table_of(rows, SUMMARY_SCHEMA))


def _spread(group: pl.DataFrame, metric: str) -> dict[str, float | None]:
    if group[metric].null_count():
        return {}
    by_text = group.group_by("text", maintain_order=True).agg(pl.col(metric).cast(pl.Float64).mean())
    mean, low, high = interval(by_text[metric].to_list())
    unit = ["layer", "head"] if "head" in group.columns else ["layer"]
    by_head = group.group_by(unit).agg(pl.col(metric).cast(pl.Float64).mean())[metric]
    best = metric == "recall_32"
    return {
        "mean": mean,
        "low": None if low is None else max(low, 0.0),
        "high": high,
        "head_p05": by_head.quantile(0.05, "linear"),
        "head_p50": by_head.median(),
        "head_p95": by_head.quantile(0.95, "linear"),
        "head_worst": by_head.min() if best else by_head.max(),
    }


def compare(peers: pl.DataFrame) -> pl.DataFrame:
    """Our first selector against every peer, extended peer and oracle, where both are feasible."""
    first = peers.filter(pl.col("kind") == "ours").select(_WHO).head(1)
    rows = []
    for who, theirs in peers.join(first, on=_WHO, how="anti").group_by([*_WHO, "ratio"], maintain_order=True):
        about = dict(zip([*_WHO, "ratio"], who, strict=True))
        ours = peers.join(first, on=_WHO, how="semi").filter(pl.col("ratio") == about["ratio"])
        for metric in COMPARED:
            if ours.height and not ours[metric].null_count() and not theirs[metric].null_count():
                rows.append(about | {"metric": metric} | _versus(ours, theirs, metric))
    return pl.from_arrow(table_of(rows, COMPARISON_SCHEMA))


def _versus(ours: pl.DataFrame, theirs: pl.DataFrame, metric: str) -> dict:
    unit = ["text", "layer", "head"]
    both = ours.select(*unit, pl.col(metric).cast(pl.Float64).alias("ours")).join(
        theirs.select(*unit, pl.col(metric).cast(pl.Float64).alias("theirs")), on=unit, validate="1:1"
    )
    by_text = both.group_by("text", maintain_order=True).agg(pl.col("ours", "theirs").mean())
    by_head = both.group_by("layer", "head").agg(pl.col("ours", "theirs").mean())
    gaps = (by_text["theirs"] - by_text["ours"]).to_list()
    row = dict(zip(("ours", "ours_low", "ours_high"), interval(by_text["ours"]), strict=True))
    row |= dict(zip(("theirs", "theirs_low", "theirs_high"), interval(by_text["theirs"]), strict=True))
    row |= dict(zip(("difference", "difference_low", "difference_high"), interval(gaps), strict=True))
    known = row["ours_high"] is not None
    return row | {
        "documents": by_text.height,
        "documents_won": sum(gap > 0 for gap in gaps),
        "heads_won": float((by_head["ours"] < by_head["theirs"]).mean()),
        "separate": row["ours_high"] < row["theirs_low"] if known else None,
        "separate_paired": row["difference_low"] > 0 if known else None,
    }


def verdicts(peers: pl.DataFrame, comparison: pl.DataFrame) -> pl.DataFrame:
    """One row a peer and ratio: whether ours has both a lower output error and a lower dropped mass.

    A peer with several variants is beaten where every feasible one is. Where ours or the peer is not
    feasible, or there is a single document, nothing is known.
    """
    rows = []
    others = peers.filter(pl.col("kind") == "peer")
    for (selector, ratio), _ in others.group_by(["selector", "ratio"], maintain_order=True):
        found = comparison.filter(
            pl.col("selector") == selector, pl.col("ratio") == ratio, pl.col("kind") == "peer"
        )
        error, mass = (found.filter(pl.col("metric") == metric) for metric in COMPARED)
        full = error.height > 0 and error.height == mass.height
        rows.append(
            {
                "selector": selector,
                "kind": "peer",
                "ratio": ratio,
                "variants": mass.height,
                "output_error": error["theirs"].min(),
                "dropped_mass": mass["theirs"].min(),
                "ours_output_error": error["ours"].min(),
                "ours_dropped_mass": mass["ours"].min(),
                "beaten": _all(found["separate"]) if full else None,
                "beaten_paired": _all(found["separate_paired"]) if full else None,
                "lower": bool((found["difference"] > 0).all()) if full else None,
            }
        )
    return pl.from_arrow(table_of(rows, VERDICT_SCHEMA))


def _all(flags: pl.Series) -> bool | None:
    return None if flags.null_count() else bool(flags.all())
