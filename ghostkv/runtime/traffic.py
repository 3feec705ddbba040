"""What a model read while it decoded: bytes by layer and query, per head and GQA-true."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import polars as pl

# One row a query, summed over the rows of a batch and over KV heads. Bytes of `head_` columns are sums over heads,
# the others count what a group shares once: records, and the union of the group's survivors.
COLUMNS = (
    "visible",  # keys that a KV head has in sight
    "cold",
    "united",  # survivors of at least one head of the group
    "survivors",  # summed over heads
    "records",  # bytes
    "probes",
    "survivor_bytes",
    "hot",  # sinks and hot window
    "full",  # full fp16 K and V
    "head_records",
    "head_probes",
    "head_survivor_bytes",
    "head_hot",
    "head_full",
    "violated",  # heads whose certificate, of mass or of output, did not hold
    "dense",  # of `full`, what belongs to KV heads that stay dense; counted above as survivors, sinks and hot window
)
# Beside them, and no sum: the largest dropped mass that a certificate admits; nothing where none is given.
CERTIFIED = "certified"


# Rows of counts, or what makes them: a step is not to wait for sums that are read at the end.
Rows = np.ndarray | Callable[[], np.ndarray]


def made(rows: Rows) -> np.ndarray:
    """The rows themselves."""
    return rows() if callable(rows) else rows


def rows_of(
    visible: np.ndarray,
    cold: np.ndarray,
    united: np.ndarray,
    own: np.ndarray,
    pair: float,
    records: np.ndarray,
    head_records: np.ndarray,
    survivor: float | np.ndarray | None = None,
    certified: np.ndarray | None = None,
    violated: np.ndarray | None = None,
) -> np.ndarray:
    """Rows of `COLUMNS` from counts, summed over batch and KV heads.

    Parameters
    ----------
    visible, cold, united : ndarray, shape [batch, kv_heads, queries]
    own : ndarray, shape [batch, kv_heads, queries, group]
        Survivors of each head.
    pair : float
        Bytes of one key and value in fp16.
    records : ndarray, shape [batch, kv_heads, queries]
        Index bytes, once per KV head.
    head_records : ndarray, shape [batch, kv_heads, queries]
        The same summed over the group's heads, each reading for itself.
    survivor : float or ndarray of shape [batch, kv_heads, queries], optional
        Bytes of a survivor where it costs something else than `pair`.
    certified : ndarray, shape [batch, kv_heads, queries], optional
        Largest dropped mass of a head that the certificate admits.
    violated : ndarray, shape [batch, kv_heads, queries], optional
        Heads whose certificate did not hold.

    Returns
    -------
    ndarray of float64, shape [queries, len(COLUMNS) + 1]
        The last column is `CERTIFIED`, NaN without a certificate.
    """
    group, survivors = own.shape[3], own.sum(axis=3)
    survivor = pair if survivor is None else survivor
    hot = (visible - cold) * pair
    nothing = np.zeros_like(hot)
    parts = (
        visible, cold, united, survivors,
        records, nothing, united * survivor, hot, visible * pair,
        head_records, nothing, survivors * survivor, hot * group, visible * pair * group,
        nothing if violated is None else violated, nothing,
    )  # fmt: skip
    sums = [np.asarray(part, np.float64).sum(axis=(0, 1)) for part in parts]
    most = np.full(len(sums[0]), np.nan) if certified is None else certified.max(axis=(0, 1))
    return np.stack([*sums, most], axis=1)


def dense_rows(visible: np.ndarray, sinks: int, hot: int, group: int, pair: float) -> np.ndarray:
    """Rows of KV heads that are read whole, cold keys too; `visible` of shape [batch, kv_heads, queries]."""
    cold = np.maximum(visible - sinks - hot, 0)
    nothing = np.zeros(visible.shape)
    rows = rows_of(visible, cold, cold, np.repeat(cold[..., None], group, axis=3), pair, nothing, nothing)
    rows[:, COLUMNS.index("dense")] = rows[:, COLUMNS.index("full")]
    return rows


class Summary(dict):
    """What was read, by name; printed, it is sentences, with what was promised."""

    def __init__(self, read: Mapping[str, float], promise: str) -> None:
        super().__init__(read)
        self.promise = promise

    def __repr__(self) -> str:
        if not self["queries"]:
            return "Nothing was decoded yet; a dense prefill does not count."
        lines = [
            f"Read: {self['bytes_ratio_gqa']:.1%} of the bytes of the full fp16 K and V, records included "
            f"({self['bytes_ratio']:.1%} if each head read for itself).",
            f"Never read: {self['elimination']:.1%} of the cold keys.",
            f"Promised: {self.promise}.",
        ]
        if self["dense"]:
            lines.insert(1, f"Read whole: KV heads that stay dense, {self['dense']:.1%} of the full K and V.")
        if self[CERTIFIED] is not None:
            lines.append(
                f"Certified: no query dropped more than {self[CERTIFIED]:.2%} of its softmax mass; {self['violated']} violations."
            )
        return "\n".join(lines)


class Traffic:
    """Counts of decoded queries; layers that stay dense count in full, dense prefill does not count.

    Attributes
    ----------
    promise : str
        What the policy promises of what it does not read.
    """

    def __init__(self, promise: str = "nothing") -> None:
        self.promise = promise
        self.reset()

    def reset(self) -> None:
        """Forget everything counted so far."""
        self._parts: list[tuple[int, int, Rows]] = []

    def add(self, layer: int, past: int, rows: Rows) -> None:
        """Count queries at positions past, past + 1, ...; rows as `rows_of` gives them, or what gives them when they are read."""
        self._parts.append((layer, past, rows))

    def queries(self) -> pl.DataFrame:
        """One row per layer and query: `layer`, `position`, `COLUMNS`, `CERTIFIED`, and the columns of `ratios`."""
        names = (*COLUMNS, CERTIFIED)
        if not self._parts:
            empty = {"layer": pl.Int32, "position": pl.Int32} | dict.fromkeys(names, pl.Float64)
            return ratios(pl.DataFrame(schema=empty))
        self._parts = [(layer, past, made(rows)) for layer, past, rows in self._parts]
        counts = np.concatenate([rows for _, _, rows in self._parts])
        size = [len(rows) for _, _, rows in self._parts]
        layer = np.repeat([layer for layer, _, _ in self._parts], size).astype(np.int32)
        position = np.concatenate([np.arange(past, past + len(rows)) for _, past, rows in self._parts])
        columns = {"layer": layer, "position": position.astype(np.int32)}
        found = pl.DataFrame(columns | dict(zip(names, counts.T, strict=True)))
        return ratios(found.with_columns(pl.col(CERTIFIED).fill_nan(None)))

    def layers(self) -> pl.DataFrame:
        """One row per layer: `layer`, `queries`, sums of `COLUMNS`, the largest `CERTIFIED`, and those of `ratios`."""
        summed = (
            self.queries()
            .group_by("layer")
            .agg(pl.len().alias("queries"), pl.col(COLUMNS).sum(), pl.col(CERTIFIED).max())
        )
        return ratios(summed.sort("layer"))

    def positions(self) -> pl.DataFrame:
        """One row per position, all layers together: `position`, sums of `COLUMNS`, and the columns of `ratios`."""
        return ratios(self.queries().group_by("position").agg(pl.col(COLUMNS).sum()).sort("position"))

    def summary(self) -> Summary:
        """Over all layers and queries: `bytes_ratio_gqa`, `bytes_ratio`, `kept_fraction`, `elimination`, `queries`,
        `dense`, `certified` (the largest) and `violated`.

        `dense` is the share of the full bytes that belongs to KV heads and layers which stay dense. `kept_fraction` counts
        sinks, hot window and a head's own survivors over visible keys; `queries` counts (layer, query) pairs.
        """
        queries = self.queries()
        row = ratios(queries.select(pl.col(COLUMNS).sum())).row(0, named=True)
        names = ("bytes_ratio_gqa", "bytes_ratio", "kept_fraction", "elimination")
        return Summary(
            {name: float("nan") if row[name] is None else row[name] for name in names}
            | {
                "dense": row["dense"] / row["full"] if row["full"] else 0.0,
                "queries": queries.height,
                CERTIFIED: queries[CERTIFIED].max(),
                "violated": int(row["violated"]),
            },
            self.promise,
        )


def ratios(counts: pl.DataFrame) -> pl.DataFrame:
    """Add `bytes_ratio_gqa`, `bytes_ratio`, `kept_fraction` and `elimination` to columns of counts."""
    group = pl.col("head_full") / pl.col("full")
    read = pl.col("records") + pl.col("probes") + pl.col("survivor_bytes") + pl.col("hot")
    head_read = (
        pl.col("head_records") + pl.col("head_probes") + pl.col("head_survivor_bytes") + pl.col("head_hot")
    )
    kept = pl.col("visible") - pl.col("cold") + pl.col("survivors") / group
    return counts.with_columns(
        (read / pl.col("full")).alias("bytes_ratio_gqa"),
        (head_read / pl.col("head_full")).alias("bytes_ratio"),
        (kept / pl.col("visible")).alias("kept_fraction"),
        (1 - pl.col("survivors") / (pl.col("cold") * group)).alias("elimination"),
    )
