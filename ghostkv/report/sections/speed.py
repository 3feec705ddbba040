"""Stage `speed`: a decode step of one layer and of the whole model, dense and under elimination."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import polars as pl

from ghostkv.report.charts import line_at, logarithmic, quantity
from ghostkv.report.document import Block, Chapter, Column, Figure, Prose, Table, figures
from ghostkv.report.numbers import factor, percent, tiny
from ghostkv.report.results import Results
from ghostkv.report.theme import coloured, colours, top_legend

_CONTEXTS = {"4k": 4096, "32k": 32768, "128k": 131072}
_WANTED = "self WHERE headline AND threads = 2 AND tokens = {}"


def build(results: Results) -> Sequence[Block]:
    """What was compared, the times, and how near they are to what the machine can do."""
    rows = results.table("speed.layers").with_columns(
        error=pl.col("output_error"), bytes_ratio=pl.col("counted_bytes") / pl.col("dense_bytes")
    )
    blocks = [Prose(_reading(rows)), _ratios(rows), _times(rows), _limits(rows)]
    steps = results.table("speed.steps") if results.has("speed.steps") else pl.DataFrame()
    return blocks if steps.is_empty() else [*blocks, Prose(_whole(steps)), _parts(steps), _steps(steps)]


def _reading(rows: pl.DataFrame) -> str:
    unequal = rows.filter(~pl.col("survivors_equal")).height
    checked = (
        "The survivors of every measured query are those of float64."
        if not unequal
        else f"**The survivors differ from those of float64 in {unequal} of {rows.height} rows.**"
    )
    return (
        "Attention of one layer for one new token: torch's scaled_dot_product_attention over the whole cache, in float32 and "
        "bfloat16 and in two shapes each, of which the fastest counts, beside the scan of packed records, the survivors "
        "and the tail (docs/speed.md). All ways take turns in one process on as many threads; the least time of each counts. "
        f"\n\nOne theta a row, chosen on other queries, left an output error of {percent(rows['error'].min())} to "
        f"{percent(rows['error'].max())}. Generated keys have the spectrum of scores of the captured layer and no more of "
        f"a real text: their share of survivors is theirs alone. {checked}"
    )


def _ratios(rows: pl.DataFrame) -> Figure:
    data = rows.select(
        "tokens", "ratio", "cpu_ratio", pl.col("shape").alias("label"),
        pl.format("{} threads", "threads").replace("1 threads", "1 thread").alias("on"),
    )  # fmt: skip
    ticks, most = sorted(set(data["tokens"])), float(data["ratio"].max())
    label = "format(datum.value, ',')"
    x = quantity("tokens", "Context (tokens)", values=ticks, labelExpr=label, grid=False, **logarithmic())
    y = quantity("ratio", "Dense time over ghost time", alt.Y, format=",.2~f", domain=[0, max(1.0, most)])
    stroke = {"symbolType": "stroke", "symbolOpacity": 1, "symbolStrokeWidth": 3}
    names = data["label"].unique(maintain_order=True).to_list()
    base = alt.Chart(data).encode(
        x=x, y=y, color=coloured("label", colours(names, {}), **stroke), detail="on:N"
    )
    lines = base.mark_line(strokeWidth=2).encode(
        strokeDash=alt.StrokeDash("on:N", legend=top_legend(symbolType="stroke"))
    )
    dots = base.mark_circle(size=50, opacity=1)
    return Figure(
        "speed_ratio",
        "A decode step of one layer: torch's time over that of packed records, on this CPU",
        alt.layer(line_at(y=1.0), lines, dots).properties(width=520, height=260),
        data,
        "Above the dashed line elimination is faster. The fastest of torch's ways on as many threads or fewer counts. The output "
        "error is that of the table below. A shape that was captured has one context.",
    )


_WHAT = {
    "shape": Column("Shape"),
    "source": Column("Keys"),
    "tokens": Column("Tokens", "integer"),
    "threads": Column("Threads", "integer"),
}


def _times(rows: pl.DataFrame) -> Table:
    return Table(
        "speed_layers",
        "A step of one layer in seconds, K and V as bfloat16 where nothing else is said. The last two columns are the fastest "
        "dense way on so many threads or fewer over ghost, by the clock and in processor time of all threads.",
        rows,
        _WHAT
        | {
            "survivors": Column("Survivors", "percent"),
            "error": Column("Output error", "percent"),
            "bytes_ratio": Column("Bytes ratio", "number"),
            "float32_seconds": Column("Dense float32 (s)", "number"),
            "bfloat16_seconds": Column("Dense bfloat16 (s)", "number"),
            "ghost_float32_seconds": Column("Ghost float32 (s)", "number"),
            "ghost_seconds": Column("Ghost (s)", "number"),
            "ratio": Column("Dense / ghost", "factor"),
            "cpu_ratio": Column("in processor time", "factor"),
        },
    )


def _limits(rows: pl.DataFrame) -> Table:
    return Table(
        "speed_limits",
        "How near both sides are to this machine: bytes that a step must read over its time, as a share of what a copy reads and "
        "writes; and the scan beside the longer of copying its records and its arithmetic on records that lie in the cache.",
        rows,
        _WHAT
        | {
            "candidates": Column("Candidates", "percent"),
            "copy_gb_s": Column("Copy (GB/s)", "number"),
            "dense_copy_share": Column("Dense of the copy", "percent"),
            "ghost_copy_share": Column("Ghost of the copy", "percent"),
            "scan_seconds": Column("Scan (s)", "number"),
            "arithmetic_seconds": Column("Its arithmetic (s)", "number"),
            "scan_limit_share": Column("Scan of its limit", "percent"),
        },
    )


_WAYS = {
    "own": "model as it comes",
    "grouped": "dense, grouped",
    "ghost": "under elimination",
    "rest": "without context",
}


def _whole(steps: pl.DataFrame) -> str:
    last = steps.filter(pl.col("tokens") == pl.col("tokens").max())
    return (
        f"Whole steps of {last['model'][0]}, one token at a time, in turns: the model as transformers runs it; the same with the heads "
        "of a group as rows of one query and a cache that grows in place; the policy, whose records are packed as above; and the "
        "model over hardly any context, which is what no policy can save. Its threshold is fitted for "
        f"a bytes ratio on threshold texts. At {last['tokens'][0]:,} tokens the fastest dense step, of any of these and of any type, takes "
        f"{factor(last['ratio'].max())} as long as the fastest under elimination; the model as it comes, in the same type, takes "
        f"{factor(last['own_ratio'].min())} to {factor(last['own_ratio'].max())} as long. KL there is "
        f"{tiny(last['kl'].min())} to {tiny(last['kl'].max())} nats."
    )


def _parts(steps: pl.DataFrame) -> Figure:
    data = steps.unpivot(
        on=[f"{way}_seconds" for way in _WAYS], index=["tokens", "dtype"], variable_name="way", value_name="seconds"
    ).drop_nulls("seconds")  # fmt: skip
    names = {f"{way}_seconds": name for way, name in _WAYS.items()}
    data = data.with_columns(pl.col("way").replace(names), milliseconds=1e3 * pl.col("seconds"))
    hues = colours(list(_WAYS.values()), {})
    chart = (
        alt.Chart(data)
        .mark_bar()
        .encode(
            x=quantity("milliseconds", "Milliseconds a step"),
            y=alt.Y("way:N", sort=list(_WAYS.values()), axis=alt.Axis(title=None)),
            color=alt.Color("way:N", scale=alt.Scale(domain=[*hues], range=[*hues.values()]), legend=None),
        )
        .properties(width=220, height=90)
        .facet(column=alt.Column("dtype:N", title=None), row=alt.Row("tokens:O", title="Tokens"))
    )
    return Figure(
        "speed_steps",
        "A decode step of the whole model, on this CPU",
        chart,
        data,
        "Medians of steps taken in turns. The last bar is the model without its attention over the context.",
        sources=("speed.steps",),
    )


def _steps(steps: pl.DataFrame) -> Table:
    return Table(
        "speed_whole_steps",
        "A step of the whole model in seconds, medians. The last column but three is the fastest dense step of any way and type over "
        "the fastest under elimination, at that context.",
        steps,
        {
            "tokens": Column("Tokens", "integer"),
            "dtype": Column("Type"),
            **{f"{way}_seconds": Column(f"{name.capitalize()} (s)", "number") for way, name in _WAYS.items()},
            "ghost_cpu_seconds": Column("in processor time (s)", "number"),
            "own_ratio": Column("As it comes / ghost", "factor"),
            "ratio": Column("Fastest / fastest", "factor"),
            "bytes_ratio_gqa": Column("Bytes ratio", "number"),
            "kl": Column("KL (nats)", "tiny"),
            "top1": Column("Same first choice", "percent"),
        },
        sources=("speed.steps",),
    )


CHAPTER = Chapter(
    "speed",
    "Speed of a decode step",
    build,
    needs=("speed.layers",),
    headline=tuple(
        figure
        for name, tokens in _CONTEXTS.items()
        for figure in figures(
            "speed.layers",
            _WANTED.format(tokens),
            {
                f"speed.layer_{name}": (
                    f"fastest dense time / ghost time, one layer, {tokens} tokens, 2 threads",
                    "max(ratio)",
                )
            },
        )
    )
    + figures(
        "speed.layers",
        _WANTED.format(32768),
        {
            "speed.output_error_32k": ("mean relative error of the output there", "max(output_error)"),
            "speed.scan_limit_share": (
                "longer of copy and arithmetic / time of the scan there",
                "max(scan_limit_share)",
            ),
        },
    )
    + tuple(
        figure
        for name, tokens in (("smollm2_8k", 8192), ("gemma_32k", 32768))
        for figure in figures(
            "speed.steps",
            f"self WHERE model LIKE '{name.partition('_')[0]}%' AND tokens = {tokens}",
            {f"speed.step_{name}": ("fastest dense step / fastest step under elimination", "max(ratio)")},
        )
    ),
)
