"""What quantised caches lose, alone and under records, and who is faster at equal loss."""

from __future__ import annotations

import polars as pl

from ghostkv.report.document import Column, Table
from ghostkv.report.expressions import in_words
from ghostkv.report.numbers import factor, integer, percent
from ghostkv.report.results import Results
from ghostkv.report.sections.bandwidth.figures import scheme_words
from ghostkv.stages.bandwidth.equal_loss import EQUAL_ERROR

# Comparisons that are shown: ours, the other, and whether at its own loss or at a dropped mass.
_SHOWN = (
    ("nested", "int8", True),
    ("nested", "int4", True),
    ("nested", "full", False),
    ("nested", "int4", False),
    ("over_int8", "int8", True),
    ("over_int8", "int4", True),
)


def losses_table(results: Results) -> Table:
    """Every cache type, whole and under records, by bytes."""
    losses = results.table("bandwidth.losses")
    means = losses.group_by("cache", "theta").agg(
        pl.col("share_group", "bytes_ratio_gqa", "dropped_mass", "output_error").mean(),
        pl.struct("layer", "text").n_unique().alias("layers"),
    )
    whole = means.filter(pl.col("theta").is_null()).select("cache", pl.col("bytes_ratio_gqa").alias("whole"))
    data = (
        means.join(whole, on="cache", how="left")
        .with_columns((pl.col("bytes_ratio_gqa") / pl.col("whole").fill_null(1.0)).alias("own"))
        .with_columns(
            pl.when(pl.col("theta").is_null()).then(pl.lit("none")).otherwise(pl.lit("ghost")).alias("over")
        )
        .sort("cache", "theta", descending=[False, False], nulls_last=False)
    )
    texts, queries = losses["text"].n_unique(), losses["queries"].max()
    return Table(
        "bandwidth_losses",
        "Quantised caches on the same queries: read whole, and with ghost records over them, one theta for all heads and tail "
        "compensation. Sinks and hot window stay in fp16. Bytes are GQA-true, with scales and records, "
        "over full fp16 and over a whole cache of the same type. The error is that of a head's output, means over "
        f"{losses['layer'].n_unique()} layers, {texts} texts and {queries} queries of each.",
        data,
        {
            "cache": Column("Cache"),
            "over": Column("Elimination"),
            "theta": Column("theta", "number"),
            "share_group": Column("Survivors, group", "percent"),
            "bytes_ratio_gqa": Column("Bytes over fp16", "ratio"),
            "own": Column("over its own type", "ratio"),
            "dropped_mass": Column("Dropped mass", "percent"),
            "output_error": Column("Output error", "percent"),
            "layers": Column("n", "integer"),
        },
        sources=("bandwidth.losses",),
    )


def verdict(results: Results) -> str:
    """Where a quantised cache is faster, and by how much, at its own loss."""
    data = results.table("bandwidth.crossings")
    context = f"{results.config['bandwidth']['headline_context']:,} tokens"
    shape = data["shape"][0]
    rows = data.filter(
        pl.col("shape") == shape, pl.col("scenario") == "constant", pl.col("scheme") == "nested",
        pl.col("goal") == EQUAL_ERROR, pl.col("against").is_in(["int8", "int4"]),
    )  # fmt: skip
    sentences = [
        f"**At equal loss** ({shape}, {context}, model): nested storage reads as many survivors as it may and still have no more "
        "output error than the cache beside it. What both lose stands beside each speed-up."
    ]
    for against in ("int8", "int4"):
        some = rows.filter(pl.col("against") == against)
        if some.is_empty():
            continue
        name = against.upper()
        lost, unreached = some["their_output_error"][0], some.filter(pl.col("share").is_null())
        if unreached.height:
            sentences.append(
                f"{name} loses {percent(lost)}, less than was measured of any threshold: it wins."
            )
            continue
        said = [
            _compared(some.filter(pl.col("speedup") < 1), "slower than"),
            _compared(some.filter(pl.col("speedup") >= 1), "faster than"),
        ]
        sentences.append(
            f"{name} loses {percent(lost)} of a head's output; ours, with {percent(some['share'][0])} of the cold keys, "
            f"{percent(some['output_error'][0])}, is "
            + " and ".join(one.format(name) for one in said if one)
            + "."
        )
    return " ".join(sentences)


def _compared(rows: pl.DataFrame, how: str) -> str:
    """Placements and factors, with a place for the other's name; empty where there are none."""
    if rows.is_empty():
        return ""
    places = [
        f"{place.replace('_', ' ')} ({factor(speedup)})"
        for place, speedup in rows.select("placement", "speedup").iter_rows()
    ]
    return how + " {} in " + ", ".join(places)


def crossings_table(results: Results) -> Table:
    """Times of ours and of the others, each with what is lost."""
    shown = pl.any_horizontal(
        (pl.col("scheme") == scheme)
        & (pl.col("against") == against)
        & ((pl.col("goal") == EQUAL_ERROR) == equal)
        for scheme, against, equal in _SHOWN
    )
    data = results.table("bandwidth.crossings").filter(shown, pl.col("scenario") == "constant")
    data = data.with_columns(
        scheme_words(),
        scheme_words("against"),
        in_words("placement"),
        pl.when(pl.col("context").is_null()).then(pl.lit("never"))
        .when(pl.col("always")).then(pl.lit("all"))
        .otherwise(in_words("context", integer)).alias("from"),
    )  # fmt: skip
    context = results.config["bandwidth"]["headline_context"]
    return Table(
        "bandwidth_crossings",
        f"Ours beside others at equal loss (model): from which context it is faster, and by how much at {context:,} tokens; below 1 "
        "the other wins. *Equal output error*: as many survivors as it takes to lose no more than the other. *Dropped mass*: the loss "
        "that is named, beside a cache that loses what it loses. *Never* is a loss at the longest context tried. The last "
        "placements are this machine's own tiers, as fitted. Survivors are those of scenario *constant*; the table has *trend* too.",
        data,
        {
            "shape": Column("Layers of"),
            "placement": Column("Placement"),
            "scheme": Column("Ours"),
            "against": Column("Against"),
            "goal": Column("Loss"),
            "share": Column("Survivors", "percent"),
            "output_error": Column("Output error", "percent"),
            "their_output_error": Column("theirs", "percent"),
            "from": Column("Faster from", "figure"),
            "speedup": Column("Attention time", "factor"),
            "step_speedup": Column("Step time", "factor"),
            "bytes_ratio": Column("Bytes", "ratio"),
        },
        sources=("bandwidth.crossings",),
    )
