"""Steps that read what their buffer lacks, timed: each takes the table of the overlap."""

from __future__ import annotations

import altair as alt
import polars as pl

from ghostkv.report.charts import quantity
from ghostkv.report.document import Column, Figure, Table
from ghostkv.report.numbers import factor, tiny
from ghostkv.report.theme import BLUE, GREEN, MUTED, ORANGE, coloured

_WAYS = {
    "serial": "one request after another, then attention",
    "apart": "by all threads, then attention",
    "overlapped": "by all threads, attention meanwhile",
    "device": "the same blocks alone, by all threads",
}


def overlap_reading(overlap: pl.DataFrame) -> str:
    if not overlap.height:
        return "Values were not captured, so no step was timed over a store."
    text = (
        f"**Reading while attending.** Layer {overlap['layer'][0]} was decoded over a hot buffer in memory and a `GhostStore` on this "
        "machine's disk. A step asks the store for its misses, attends to sinks, hot window and hits, and lets what comes join "
        "the same sums. Beside it stands the step that reads first and attends then. All ways take turns in one process, and the "
        f"least time of each counts. Outputs differ from float64 by at most {tiny(overlap['error'].max())}. "
    )
    for source, about in (
        ("device", "past the page cache (O_DIRECT)"),
        ("page cache", "from the page cache"),
    ):
        rows = overlap.filter(pl.col("source") == source, pl.col("misses") > 0)
        if rows.height:
            slower = [
                factor((rows[f"{way}_seconds"] / rows["overlapped_seconds"]).median())
                for way in ("apart", "serial")
            ]
            text += (
                f"Read {about}, a step takes {slower[0]} as long where attention waits for all reads, and {slower[1]} where the "
                "requests wait for one another too (medians). "
            )
    if "device" not in set(overlap["source"]):
        text += "The file system has no O_DIRECT, so reads from the device were not timed. "
    return (
        text + "Overlap can hide no more than the shorter of reading and attention; the table below has both."
    )


def _medians(overlap: pl.DataFrame) -> pl.DataFrame:
    """By source and buffer; times in milliseconds, rates in GB/s."""
    times = {name: name for name in (*_WAYS, "read", "block")} | {"held": "held_time"}
    rates = {"read": "read_rate", "device": "device_rate", "stream": "stream_rate"}
    return (
        overlap.group_by("source", "buffer", maintain_order=True)
        .agg(
            pl.len().alias("timed"),
            pl.col("held", "misses", "requests", "read_bytes").mean(),
            *((pl.col(f"{of}_seconds").median() * 1e3).alias(name) for of, name in times.items()),
            *(
                (pl.col("read_bytes") / pl.col(f"{of}_seconds") / 1e9).median().alias(name)
                for of, name in rates.items()
            ),
            (pl.col("apart_seconds") / pl.col("overlapped_seconds")).median().alias("gain"),
            (pl.col("serial_seconds") / pl.col("overlapped_seconds")).median().alias("over_serial"),
            (pl.col("copy_seconds").median() * 1e3).alias("copy"),
        )
        .sort("source", "buffer")
    )


def times_figure(overlap: pl.DataFrame) -> Figure:
    order = {way: number for number, way in enumerate(_WAYS)}
    data = (
        _medians(overlap)
        .unpivot(list(_WAYS), index=["source", "buffer", "misses"], variable_name="way", value_name="ms")
        .drop_nulls("ms")
        .with_columns(
            pl.col("way").replace_strict(_WAYS).alias("label"),
            pl.format("{} rows, {} misses", "buffer", pl.col("misses").round(0).cast(pl.Int64)).alias("of"),
        )
        .sort("source", "buffer", pl.col("way").replace_strict(order))
    )
    named = dict(zip(_WAYS.values(), (ORANGE, GREEN, BLUE, MUTED), strict=True))
    sizes = data["of"].unique(maintain_order=True).to_list()
    chart = (
        alt.Chart(data)
        .mark_bar()
        .encode(
            x=quantity("ms", "A step of one layer (ms)"),
            y=alt.Y("label:N", sort=list(named), axis=None),
            color=coloured("label", named, columns=2, labelLimit=300),
            row=alt.Row("of:N", sort=sizes, title=None, header=alt.Header(labelAngle=0, labelAlign="left")),
            column=alt.Column("source:N", title=None),
        )
        .properties(width=210, height=60)
    )
    return Figure(
        "buffer_overlap",
        "A step that reads what its buffer lacks",
        chart,
        data,
        "Medians over the timed steps, by rows of the buffer of a KV head and misses of all KV heads. *Device* is past the page cache. "
        "The grey bar is the reads without the store: nothing that waits for them can be faster.",
    )


def limits_table(overlap: pl.DataFrame) -> Table:
    return Table(
        "buffer_overlap_table",
        "A step in milliseconds, medians over the timed steps, all KV heads of the layer. *Held* is attention to what memory holds, all "
        "that can be hidden while nothing has come; *copy* is what this machine takes to copy the rows that the step attends to. "
        "Reads in GB/s: by the store with checksums, the same blocks alone by as many threads, and as many bytes in one piece. "
        "*A block* is one read of 4 KiB.",
        _medians(overlap),
        {
            "source": Column("Source"),
            "buffer": Column("Buffer", "integer"),
            "timed": Column("Steps", "integer"),
            "held": Column("Rows held", "integer"),
            "misses": Column("Misses", "number"),
            "requests": Column("Requests", "number"),
            "serial": Column("One by one", "number"),
            "apart": Column("Threads", "number"),
            "overlapped": Column("Overlapped", "number"),
            "gain": Column("Threads / overlapped", "factor"),
            "over_serial": Column("One by one / overlapped", "factor"),
            "read": Column("Store", "number"),
            "device": Column("Its blocks alone", "number"),
            "held_time": Column("Held", "number"),
            "copy": Column("Copy", "number"),
            "read_rate": Column("Store, GB/s", "number"),
            "device_rate": Column("Blocks, GB/s", "number"),
            "stream_rate": Column("In one piece, GB/s", "number"),
            "block": Column("A block", "number"),
        },
    )
