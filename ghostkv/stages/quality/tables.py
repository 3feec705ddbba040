"""The tables of stage `quality`: what each text's job leaves, and what is derived from all of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl

from ghostkv.elimination.intervals import over_documents
from ghostkv.stages.quality.intervals import Draws, at_bytes, block_sums, span
from ghostkv.stages.quality.summary_schemas import EQUAL_BYTES_SCHEMA

ALL = "all"
_MEASURES = ("kl", "top1", "dense_nll", "sparse_nll")


@dataclass(frozen=True)
class MeasuredBlocks:
    """What the texts' jobs left, as arrays over policies and positions, and bootstrap draws shared by all."""

    policies: list[str]
    documents: list[tuple[str, str]]  # (text, domain)
    sums: Mapping[str, np.ndarray]  # shape [policies, blocks]: of kl, top1, dense_nll and sparse_nll
    counts: Mapping[str, np.ndarray]
    owner: np.ndarray  # int, shape [blocks]: document of each block
    replicates: int
    seed: int

    @classmethod
    def read(cls, positions: pl.DataFrame, block: int, replicates: int, seed: int) -> MeasuredBlocks:
        """Arrange rows of `POSITION_SCHEMA`."""
        policies = positions["policy"].unique(maintain_order=True).to_list()
        documents = list(positions.select("text", "domain").unique(maintain_order=True).iter_rows())
        values = positions.with_columns(pl.col("agree").cast(pl.Float64).alias("top1"))
        sums, counts, owner = {name: [] for name in _MEASURES}, {name: [] for name in _MEASURES}, []
        for number, (text, _) in enumerate(documents):
            rows = values.filter(pl.col("text") == text)
            # A slow policy may have decoded the first positions alone.
            column = (rows["position"] - rows["position"].min()).to_numpy()
            row = (
                rows["policy"]
                .replace_strict(policies, range(len(policies)), return_dtype=pl.Int32)
                .to_numpy()
            )
            for name in _MEASURES:
                table = np.full((len(policies), int(column.max()) + 1), np.nan)
                table[row, column] = rows[name].fill_null(np.nan).to_numpy()
                total, count = block_sums(table, block)
                sums[name].append(total)
                counts[name].append(count)
            owner += [number] * total.shape[1]
        joined = [
            {name: np.concatenate(part, axis=1) for name, part in found.items()} for found in (sums, counts)
        ]
        return cls(policies, documents, *joined, np.array(owner), replicates, seed)

    def domains(self) -> list[str]:
        """`all`, then every domain where there is more than one."""
        names = list(dict.fromkeys(domain for _, domain in self.documents))
        return [ALL, *names] if len(names) > 1 else [ALL]

    def chosen(self, domain: str) -> list[int]:
        """Documents of a domain."""
        return [n for n, (_, name) in enumerate(self.documents) if domain in (ALL, name)]

    def blocks(self, domain: str) -> np.ndarray:
        """Blocks of a domain, as indices."""
        return np.flatnonzero(np.isin(self.owner, self.chosen(domain)))

    def draws(self, blocks: np.ndarray) -> Draws:
        """Bootstrap replicates of these blocks, by document."""
        _, sizes = np.unique(self.owner[blocks], return_counts=True)
        return Draws.make(sizes.tolist(), self.replicates, self.seed)

    def mean(self, measure: str, domain: str) -> np.ndarray:
        """Mean over positions, shape [policies]; NaN where nothing was measured."""
        blocks = self.blocks(domain)
        total = self.counts[measure][:, blocks].sum(axis=1)
        return np.divide(
            self.sums[measure][:, blocks].sum(axis=1), total, out=np.full(len(total), np.nan), where=total > 0
        )

    def deviation(self, measure: str, domain: str) -> np.ndarray:
        """Standard deviation between documents of their means, shape [policies]; NaN for a single one."""
        own = self._by_document(self.counts[measure], domain)
        with np.errstate(divide="ignore", invalid="ignore"):
            means = self._by_document(self.sums[measure], domain) / own
        found = [each[decoded] for each, decoded in zip(means.T, (own > 0).T, strict=True)]
        return np.array([each.std(ddof=1) if len(each) > 1 else np.nan for each in found])

    def decoded(self, domain: str) -> np.ndarray:
        """Documents that each policy decoded, shape [policies]."""
        return (self._by_document(self.counts["kl"], domain) > 0).sum(axis=0)

    def _by_document(self, blocks: np.ndarray, domain: str) -> np.ndarray:
        """Sums over the blocks of each document, shape [documents, policies]."""
        return np.stack([blocks[:, self.owner == number].sum(axis=1) for number in self.chosen(domain)])

    def replicate(self, measure: str, domain: str) -> np.ndarray:
        """Bootstrap means, shape [policies, replicates]; each policy over the blocks that it decoded."""
        blocks = self.blocks(domain)
        present = self.counts[measure][:, blocks] > 0
        out = np.full((len(self.policies), self.replicates), np.nan)
        for pattern in np.unique(present, axis=0):
            alike, own = (present == pattern).all(axis=1), blocks[pattern]
            if len(own):
                sums, counts = (part[measure][np.ix_(alike, own)] for part in (self.sums, self.counts))
                out[alike] = self.draws(own).means(sums, counts)
        return out


def summarise(positions: pl.DataFrame, runs: pl.DataFrame, measured: MeasuredBlocks) -> pl.DataFrame:
    """Rows of `SUMMARY_SCHEMA`: every policy, over all texts and by domain."""
    rows = []
    for domain in measured.domains():
        shown = positions if domain == ALL else positions.filter(pl.col("domain") == domain)
        spread = _spread(shown)
        traffic = _traffic(runs if domain == ALL else runs.filter(pl.col("domain") == domain))
        found = {}
        for measure, column in zip(
            _MEASURES, ("kl", "top1", "dense_perplexity", "sparse_perplexity"), strict=True
        ):
            mean, (low, high) = measured.mean(measure, domain), span(measured.replicate(measure, domain))
            change = np.exp if measure.endswith("nll") else np.asarray
            found |= {column: change(mean), f"{column}_low": change(low), f"{column}_high": change(high)}
        documents = measured.decoded(domain)
        found |= {f"{name}_deviation": measured.deviation(name, domain) for name in ("kl", "top1")}
        for number, policy in enumerate(measured.policies):
            values = {name: _number(values[number]) for name, values in found.items()}
            about = {"policy": policy, "domain": domain, "documents": int(documents[number])}
            rows.append(about | values | spread[policy] | traffic[policy])
    return pl.DataFrame(rows, infer_schema_length=None)


def compare_at_equal_bytes(summary: pl.DataFrame, measured: MeasuredBlocks) -> pl.DataFrame:
    """Rows of `EQUAL_BYTES_SCHEMA`: what each family of peers and oracles loses at a policy's own bytes.

    A family's curve goes through its budgets at the bytes that were measured, straight between them in log
    bytes and log KL (top-1: log bytes and log disagreement); nothing is extrapolated. Both sides are taken over the
    positions that all of them decoded.
    """
    number = {policy: row for row, policy in enumerate(measured.policies)}
    rows = []
    for domain in measured.domains():
        table = summary.filter(pl.col("domain") == domain)
        blocks = measured.blocks(domain)
        families = table.filter(pl.col("kind").is_in(["peer", "oracle"]), pl.col("bytes_ratio_gqa") < 1)
        for (family,), curve in families.group_by("family", maintain_order=True):
            curve = curve.sort("bytes_ratio_gqa").unique("bytes_ratio_gqa", keep="first", maintain_order=True)
            theirs = [number[policy] for policy in curve["policy"]]
            for row in table.filter(pl.col("kind").is_in(["ours", "certified"])).iter_rows(named=True):
                every = [number[row["policy"]], *theirs]
                # A block that a slow policy decoded in part would be other positions than theirs.
                whole = measured.counts["kl"][:, blocks].max(axis=0)
                shared = (measured.counts["kl"][np.ix_(every, blocks)] == whole).all(axis=0)
                found = _at_equal_bytes(measured, blocks[shared], every, curve, row["bytes_ratio_gqa"])
                about = {
                    "policy": row["policy"],
                    "against": family,
                    "against_kind": curve["kind"][0],
                    "domain": domain,
                }
                rows.append(about | {name: _number(value) for name, value in found.items()})
    schema = pl.from_arrow(EQUAL_BYTES_SCHEMA.empty_table()).schema
    return pl.DataFrame(rows, schema={name: kind for name, kind in schema.items() if name != "role"})


def _at_equal_bytes(
    measured: MeasuredBlocks, blocks: np.ndarray, every: list[int], curve: pl.DataFrame, wanted: float
) -> dict[str, float]:
    """One policy (the first of `every`) and one family's curve, on the blocks that all of them decoded."""
    ratios = curve["bytes_ratio_gqa"].to_numpy()
    if not len(blocks):
        return {"bytes_ratio_gqa": wanted, "positions": 0}
    draws = measured.draws(blocks)
    mean, drawn = {}, {}
    for name in ("kl", "top1"):
        sums, counts = (part[name][np.ix_(every, blocks)] for part in (measured.sums, measured.counts))
        mean[name] = sums.sum(axis=1) / counts.sum(axis=1)
        drawn[name] = draws.means(sums, counts)
    their_kl = at_bytes(ratios, mean["kl"][1:], wanted)[0]
    missed = at_bytes(ratios, np.maximum(1 - mean["top1"][1:], 1e-12), wanted)[0]
    with np.errstate(divide="ignore", invalid="ignore"):
        low, high = span(at_bytes(ratios, drawn["kl"][1:].T, wanted)[:, 0] / drawn["kl"][0])
        times = their_kl / mean["kl"][0]
    return {
        "documents": len(np.unique(measured.owner[blocks])),
        "bytes_ratio_gqa": wanted, "lowest": ratios[0], "highest": ratios[-1], "kl": mean["kl"][0],
        "their_kl": their_kl, "kl_ratio": times, "kl_ratio_low": low, "kl_ratio_high": high,
        "top1": mean["top1"][0], "their_top1": 1 - missed, "positions": counts[0].sum(),
    } | _over_documents(measured, blocks, every, ratios, wanted)  # fmt: skip


def _log_ratio(
    measured: MeasuredBlocks, blocks: np.ndarray, every: list[int], ratios: np.ndarray, wanted: float
) -> float:
    """Logarithm of their KL over the policy's, pooled over these blocks; NaN beyond their bytes."""
    sums, counts = (
        part["kl"][np.ix_(every, blocks)].sum(axis=1) for part in (measured.sums, measured.counts)
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.log(at_bytes(ratios, (sums / counts)[1:], wanted)[0] / (sums / counts)[0]))


def _over_documents(
    measured: MeasuredBlocks, blocks: np.ndarray, every: list[int], ratios: np.ndarray, wanted: float
) -> dict[str, float]:
    """Student's interval of the ratio of KLs over documents, by the jackknife of its logarithm; nothing for a single one.

    Few documents make a bootstrap's interval too narrow, and one document may hold most of either KL.
    """
    owner = measured.owner[blocks]
    documents = np.unique(owner)
    if len(documents) < 2:
        return {}
    whole = _log_ratio(measured, blocks, every, ratios, wanted)
    without = [_log_ratio(measured, blocks[owner != one], every, ratios, wanted) for one in documents]
    own = whole + (len(documents) - 1) * (whole - np.array(without))
    _, low, high = over_documents(own)
    return {
        "kl_ratio_low": np.exp(low), "kl_ratio_high": np.exp(high), "kl_log_ratio_deviation": own.std(ddof=1),
    }  # fmt: skip


def _spread(positions: pl.DataFrame) -> dict[str, dict]:
    """Tails over positions by policy."""
    found = positions.group_by("policy").agg(
        pl.len().alias("positions"),
        pl.col("kl").quantile(0.99, "higher").alias("kl_p99"),
        pl.col("kl").max().alias("kl_max"),
        pl.col("max_logit_difference").max(),
    )
    return {row.pop("policy"): row for row in found.iter_rows(named=True)}


def _traffic(runs: pl.DataFrame) -> dict[str, dict]:
    """What was read by policy: means over texts, of the leading bytes ratio with their interval."""
    found = runs.group_by("policy").agg(
        pl.col("kind", "family", "target", "certificate", "prefill").first(),
        pl.col("kept_fraction", "bytes_ratio", "bytes_ratio_gqa").mean(),
        pl.col("certified").max(),
        pl.col("violated").sum(),
        pl.col("bytes_ratio_gqa").alias("each"),
    )
    rows = {}
    for row in found.iter_rows(named=True):
        each = row.pop("each")
        _, row["bytes_ratio_gqa_low"], row["bytes_ratio_gqa_high"] = over_documents(each)
        row["bytes_ratio_gqa_deviation"] = float(np.std(each, ddof=1)) if len(each) > 1 else None
        rows[row.pop("policy")] = row
    return rows


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
