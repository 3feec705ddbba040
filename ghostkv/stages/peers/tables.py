"""The tables of the comparison at equal bytes: rows per head, intervals over documents, verdicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl
from scipy.special import stdtr, stdtrit

from ghostkv.elimination.metrics import upper_quantile
from ghostkv.files.tables import table_of
from ghostkv.stages.peers.schemas import MEANS, METRICS
from ghostkv.stages.peers.summary_schemas import COMPARISON_SCHEMA, SUMMARY_SCHEMA, VERDICT_SCHEMA

COMPARED = ("output_error_mean", "dropped_mass_mean")
SHOWN = tuple(name for name, _ in METRICS)
_WHO = ["selector", "variant", "kind", "column"]
_CONFIDENCE = 0.95


def head_rows(
    keys: Mapping, heads: np.ndarray, queries: Mapping[str, np.ndarray], ratios, feasible
) -> list[dict]:
    """Rows of `PEER_SCHEMA` from per-query arrays of shape [ratios, group, queries]."""
    keys = {**keys, "queries": next(iter(queries.values())).shape[2]}
    rows = []
    for r, ratio in enumerate(ratios):
        about = {**keys, "ratio": ratio, "feasible": bool(feasible[r])}
        means = _means(queries, r) if feasible[r] else {}
        for g, head in enumerate(heads):
            rows.append({**about, "head": int(head)} | {name: float(one[g]) for name, one in means.items()})
    return rows


def _means(queries: Mapping[str, np.ndarray], r: int) -> dict[str, np.ndarray]:
    """Means and tails over the queries of every head at one ratio."""
    found = {}
    for name in MEANS:
        if name in queries:
            tailed = name in ("dropped_mass", "output_error")
            found[f"{name}_mean" if tailed else name] = queries[name][r].mean(axis=1)
            if tailed:
                found[f"{name}_p99"] = upper_quantile(queries[name][r], 0.99, axis=1)
    return found


def layer_rows(keys: Mapping, groups: Sequence[tuple[Mapping, np.ndarray]], ratios) -> list[dict]:
    """Rows of `LAYER_SCHEMA`: the queries of all KV heads side by side, each with what is feasible."""
    feasible = np.logical_and.reduce([fits for _, fits in groups])
    queries = {name: np.concatenate([values[name] for values, _ in groups], axis=1) for name in groups[0][0]}
    keys = {**keys, "queries": next(iter(queries.values()))[0].size}
    rows = []
    for r, ratio in enumerate(ratios):
        row = {**keys, "ratio": ratio, "feasible": bool(feasible[r])}
        if feasible[r]:
            pooled = {name: values.reshape(len(ratios), 1, -1) for name, values in queries.items()}
            row |= {name: float(one[0]) for name, one in _means(pooled, r).items()}
            if "output_error" in queries:
                row["output_error_worst_head"] = float(queries["output_error"][r].mean(axis=1).max())
        rows.append(row)
    return rows


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
    """Ours against every setting of every other method and oracle, where both are feasible.

    In a column that a method does not have, it stands as it is alone.
    """
    mine = peers.filter(pl.col("kind") == "ours")
    rows = []
    others = peers.filter(~pl.col("kind").is_in(["ours", "record"]))
    for (selector, variant, kind, ratio), setting in others.group_by(
        ["selector", "variant", "kind", "ratio"], maintain_order=True
    ):
        for column in mine["column"].unique(maintain_order=True).to_list():
            has = setting["column"].unique(maintain_order=True).to_list()
            theirs_in = column if column in has else has[0]
            about = {"selector": selector, "variant": variant, "kind": kind, "ratio": ratio, "column": column,
                     "theirs_column": theirs_in}  # fmt: skip
            theirs = setting.filter(pl.col("column") == theirs_in)
            ours = mine.filter(pl.col("ratio") == ratio, pl.col("column") == column)
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
    gaps = (by_text["theirs"] - by_text["ours"]).to_numpy()
    # Of logs, as ratios of documents are not spread evenly about their mean.
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log(by_text["theirs"].to_numpy()) - np.log(by_text["ours"].to_numpy())
    row = dict(zip(("ours", "ours_low", "ours_high"), interval(by_text["ours"]), strict=True))
    row |= dict(zip(("theirs", "theirs_low", "theirs_high"), interval(by_text["theirs"]), strict=True))
    row |= dict(zip(("difference", "difference_low", "difference_high"), interval(gaps), strict=True))
    if np.isfinite(logs).all():
        times = [None if one is None else float(np.exp(one)) for one in interval(logs)]
        row |= dict(zip(("times", "times_low", "times_high"), times, strict=True))
    return row | {
        "documents": by_text.height,
        "documents_won": int((gaps > 0).sum()),
        "heads_won": float((by_head["ours"] < by_head["theirs"]).mean()),
        "p_value": _p_value(gaps),
    }


def _p_value(gaps: np.ndarray) -> float | None:
    """Two-sided p of Student's paired test that documents differ by nothing."""
    if len(gaps) < 2:
        return None
    spread = gaps.std(ddof=1) / np.sqrt(len(gaps))
    if spread == 0:
        return float(gaps.mean() == 0)
    return float(2 * stdtr(len(gaps) - 1, -abs(gaps.mean()) / spread))


def verdicts(peers: pl.DataFrame, comparison: pl.DataFrame) -> pl.DataFrame:
    """One row a peer, column and ratio: its best setting, in hindsight, against ours, which threshold texts chose.

    `beaten` and `lost` ask whether output error (dropped mass where no values were captured) differs beyond chance, by paired
    tests over documents, corrected for the number of peers at that ratio and column (Holm 1979).
    """
    metric = COMPARED[0] if (comparison["metric"] == COMPARED[0]).any() else COMPARED[1]
    rows = []
    names = peers.filter(pl.col("kind") == "peer").select("selector", "ratio").unique(maintain_order=True)
    for column in peers.filter(pl.col("kind") == "ours")["column"].unique(maintain_order=True).to_list():
        for ratio in names["ratio"].unique(maintain_order=True).to_list():
            these = [
                _best(name, column, ratio, comparison, metric)
                for name in names.filter(pl.col("ratio") == ratio)["selector"]
            ]
            for row, adjusted in zip(these, holm([one.get("p_value") for one in these]), strict=True):
                sure = adjusted is not None and adjusted < 1 - _CONFIDENCE
                known = adjusted is not None
                row |= {
                    "p_holm": adjusted,
                    "beaten": (sure and row["difference"] > 0) if known else None,
                    "lost": (sure and row["difference"] < 0) if known else None,
                }
            rows += these
    return pl.from_arrow(table_of(rows, VERDICT_SCHEMA))


def _best(selector: str, column: str, ratio: float, comparison: pl.DataFrame, metric: str) -> dict:
    found = comparison.filter(
        pl.col("selector") == selector, pl.col("kind") == "peer", pl.col("ratio") == ratio,
        pl.col("column") == column,
    )  # fmt: skip
    about = {"selector": selector, "ratio": ratio, "column": column, "metric": metric}
    same = found.filter(pl.col("metric") == metric).sort("theirs", maintain_order=True)
    if same.is_empty():
        return about | {"variants": 0}
    best = same.row(0, named=True)
    mass = found.filter(pl.col("metric") == COMPARED[1], pl.col("variant") == best["variant"])
    return about | best | {
        "variants": same.height,
        "dropped_mass": mass["theirs"].item(),
        "ours_dropped_mass": mass["ours"].item(),
    }  # fmt: skip


def holm(values: Sequence[float | None]) -> list[float | None]:
    """p-values corrected for being several (Holm 1979): the share of false claims among all is at most what is asked."""
    known = sorted((value, at) for at, value in enumerate(values) if value is not None)
    adjusted: list[float | None] = [None] * len(values)
    largest = 0.0
    for rank, (value, at) in enumerate(known):
        largest = max(largest, min(1.0, (len(known) - rank) * value))
        adjusted[at] = largest
    return adjusted
