"""What a hot buffer lacks: each takes the table of buffers."""

from __future__ import annotations

import altair as alt
import polars as pl

from ghostkv.report.charts import logarithmic, quantity
from ghostkv.report.document import Column, Figure, Table, aggregated
from ghostkv.report.numbers import counted, integer, percent
from ghostkv.report.theme import BLUE, GREEN, MUTED, ORANGE, PURPLE, VERMILION, coloured, colours, top_legend

_TRACE = pl.col("source") == "trace"
_LINES = ("all KV heads", "worst KV head")
_SURVIVORS = "survivors"
MULTIPLES = (2, 4, 8)


def request() -> pl.Expr:
    asked = pl.format("best {}", pl.col("asked"))
    return pl.when(pl.col("asked").is_null()).then(pl.lit(_SURVIVORS)).otherwise(asked).alias("label")


def _rate() -> pl.Expr:
    """Misses over rows that were asked for; of sums, so that heads weigh what they ask for."""
    return (pl.col("misses").sum() / pl.col("rows").sum()).fill_nan(None)


def _worst() -> pl.Expr:
    return (pl.col("misses") / pl.col("rows")).fill_nan(None).max()


def _smallest(buffers: pl.DataFrame) -> pl.DataFrame:
    """Requests of the trace that ask for the fewest rows."""
    trace = buffers.filter(_TRACE)
    return trace.filter(pl.col("asked") == trace["asked"].min())


def misses_reading(buffers: pl.DataFrame) -> str:
    trace, least = buffers.filter(_TRACE), _smallest(buffers)
    heads = counted(trace.select("layer", "kv_head").n_unique(), "KV head")
    text = (
        "A serving engine that keeps K and V outside the accelerator holds a *hot buffer* there and plans in rows a request: of the "
        "rows that a decode step asks for, how many does the buffer lack? A row is K and V of one token of one KV head. Every step "
        "of the trace asks for the best so many cold keys by their records, as an indexer with a fixed top-k would, or for all "
        "survivors of the headline design. Sinks and hot window are in fast memory besides. All sizes of the buffer come from "
        f"one pass over LRU's stack (docs/decode.md), {integer(trace['steps'].max())} steps of {heads}. "
    )
    for multiple in MULTIPLES:
        rows = least.filter(pl.col("buffer") == multiple * pl.col("asked"))
        if rows.height:
            text += (
                f"Requests of {integer(rows['asked'][0])} rows miss {percent(rows.select(_rate()).item())} with a buffer of "
                f"{multiple} times as many ({percent(rows.select(_worst()).item())} on the worst KV head). "
            )
    return text + "The least misses know the future: they are a bound and no policy."


def misses_figure(buffers: pl.DataFrame) -> Figure:
    kept = ["label", "asked", "buffer", "rows", "misses"]
    data = (
        buffers.filter(_TRACE)
        .group_by("label", "asked", "buffer", maintain_order=True)
        .agg(_rate().alias(_LINES[0]), _worst().alias(_LINES[1]), pl.col("rows", "misses").mean())
        .unpivot(list(_LINES), index=kept, variable_name="of", value_name="rate")
        .sort("asked", "of", "buffer", nulls_last=True)
    )
    x = quantity(
        "buffer",
        "Rows of the buffer, of one KV head",
        values=sorted(set(data["buffer"])),
        labelExpr="format(datum.value, ',')",
        **logarithmic(base=2),
    )
    y = quantity("rate", "Misses of the rows asked for", alt.Y, percent=True)
    named = colours(
        data["label"].unique(maintain_order=True), {_SURVIVORS: ORANGE}, (BLUE, GREEN, PURPLE, VERMILION)
    )
    stroke = {"symbolType": "stroke", "symbolStrokeWidth": 3, "symbolOpacity": 1}
    base = alt.Chart(data).encode(x=x, y=y, color=coloured("label", named, **stroke), detail="of:N")
    dash = alt.StrokeDash("of:N", sort=list(_LINES), legend=top_legend(symbolType="stroke"))
    chart = alt.layer(
        base.mark_line(strokeWidth=2).encode(strokeDash=dash), base.mark_circle(size=40, opacity=1)
    )
    return Figure(
        "buffer_misses",
        "What a hot buffer lacks under LRU",
        chart.properties(width=560, height=280),
        data,
        "Lines are means over KV heads, weighted by the rows that they ask for, and the KV head that misses the largest share. A "
        "buffer that cannot hold a request has no dot. `rows` and `misses` in the data: a request and KV head.",
    )


def misses_table(buffers: pl.DataFrame) -> Table:
    bounded = pl.col("least_misses").is_not_null()
    columns = {
        "source": Column("Source"),
        "label": Column("Requests"),
        "buffer": Column("Buffer", "integer"),
        "heads": Column("KV heads", "integer", pl.len()),
        "rows": Column("Rows asked for", "number"),
        "misses": Column("Misses a request", "number"),
        "misses_p99": Column("p99", "number"),
        "worst": Column("p99, worst KV head", "number", pl.col("misses_p99").max()),
        "rate": Column("Miss rate", "percent", _rate()),
        "worst_rate": Column("worst KV head", "percent", _worst()),
        "first_reads": Column("First reads", "number"),
        "bounded_misses": Column("Misses, bounded heads", "number", pl.col("misses").filter(bounded).mean()),
        "least_misses": Column("Least misses", "number"),
    }
    rows = buffers.sort(~_TRACE, "source", "asked", "buffer", nulls_last=True)
    return Table(
        "buffer_table",
        "Rows a request and KV head, means over KV heads; p99 is over requests. *First reads* are misses of rows that nothing had "
        "touched since the trace began, which a longer decode would have fewer of. *Least misses* are what the best choice of rows "
        "(Belady) leaves, known for one KV head a layer unless the config says more; LRU's on the same KV heads stand beside "
        "them. Sources other than the trace are generated tensors.",
        aggregated(rows, ["source", "label", "buffer"], columns),
        columns,
    )


def layers_figure(buffers: pl.DataFrame) -> Figure:
    share = (pl.col("misses") / pl.col("rows")).alias("rate")
    data = (
        _smallest(buffers)
        .select("layer", "kv_head", "asked", "buffer", "rows", "misses", share)
        .with_columns(pl.format("{} rows", "buffer").alias("label"))
        .sort("buffer", "layer", "kv_head")
    )
    names = data["label"].unique(maintain_order=True).to_list()
    named = colours(names, {}, (VERMILION, ORANGE, GREEN, BLUE, PURPLE, MUTED))
    chart = (
        alt.Chart(data)
        .mark_circle(size=45, opacity=0.8)
        .encode(
            x=alt.X("layer:O", axis=alt.Axis(title="Layer", labelAngle=0)),
            xOffset=alt.XOffset("label:N", scale=alt.Scale(domain=names)),
            y=quantity("rate", "Misses of the rows asked for", alt.Y, percent=True),
            color=coloured("label", named, title="Buffer"),
        )
        .properties(width=560, height=240)
    )
    return Figure(
        "buffer_layers",
        f"What a hot buffer lacks, layer by layer: requests of {integer(data['asked'].min())} rows",
        chart,
        data,
        "A dot is a KV head. A buffer that serves one head well may fail another of the same layer.",
    )
