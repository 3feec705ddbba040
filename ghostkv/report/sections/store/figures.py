"""Charts of the store: what kills left, and what gathers cost."""

from __future__ import annotations

import altair as alt
import polars as pl

from ghostkv.report.charts import line_at, logarithmic, quantity
from ghostkv.report.document import Figure
from ghostkv.report.numbers import counted, factor, integer
from ghostkv.report.results import Results
from ghostkv.report.theme import BLUE, INK, MUTED, ORACLE_GREY, ORANGE, SKY, VERMILION, coloured

PHASE_WORDS = {
    "create": "making the files",
    "log": "writing the log",
    "segment": "sealing a segment",
    "empty_log": "emptying the log",
    "sync": "waiting for the disk",
    "mark": "writing the mark",
    "outside": "from outside, any time",
}
METHOD_WORDS = {
    "memory": "NumPy in RAM",
    "map": "store, mapped",
    "map_verified": "store, mapped and checked",
    "blocks": "store, by blocks",
}
_METHOD_COLOURS = (ORACLE_GREY, SKY, BLUE, ORANGE)
_SURVIVED, _LOST = "survived", "not survived"
_PANEL = 250


def _kill_chart(data: pl.DataFrame) -> alt.HConcatChart:
    """Recovered against acknowledged tokens of every kill; beside it their difference by what was interrupted."""
    colour = coloured("result", {_SURVIVED: BLUE, _LOST: VERMILION}, symbolSize=90)
    top = int(max(data["recovered_tokens"].max(), data["acknowledged_tokens"].max(), 1))
    line = alt.Chart(pl.DataFrame({"at": [0, top]})).mark_line(color=INK, strokeDash=[3, 3], strokeWidth=1)
    dots = alt.Chart(data).mark_circle(size=34, opacity=0.6).encode(
        x=alt.X("acknowledged_tokens:Q", title="Acknowledged before the kill (tokens)"),
        y=alt.Y("recovered_tokens:Q", title="Recovered (tokens)"),
        color=colour,
    )  # fmt: skip
    left = alt.layer(line.encode(x="at:Q", y="at:Q"), dots).properties(width=_PANEL, height=250)
    order = [word for word in PHASE_WORDS.values() if word in set(data["phase_words"])]
    rows = alt.Y("phase_words:N", sort=order, title=None, axis=alt.Axis(labelLimit=150, grid=True))
    zero = line_at(x=0, dash=(3, 3))
    # Room for the dots on the line; a loss would lie to the left of it.
    wide = alt.Scale(domain=[min(-1, data["beyond"].min()), data["under_way"].max() + 1], nice=False)
    base = alt.Chart(data).encode(
        y=rows, yOffset=alt.YOffset("place:Q", scale=alt.Scale(domain=[-0.15, 1.15]))
    )
    ranges = base.mark_rule(color=ORACLE_GREY, strokeWidth=1, opacity=0.6).encode(
        x=alt.X("zero:Q", title="Recovered beyond acknowledged (tokens)", scale=wide), x2="under_way:Q"
    )
    found = base.mark_circle(size=26, opacity=0.9).encode(x="beyond:Q", color=colour)
    right = alt.layer(ranges, zero, found).properties(width=_PANEL - 10, height=250)
    return alt.hconcat(left, right, spacing=14)


def _kill_frame(kills: pl.DataFrame) -> pl.DataFrame:
    """Kills as `_kill_chart` draws them."""
    known = pl.col("phase").replace_strict(PHASE_WORDS, default=pl.col("phase"))
    return kills.select(
        "kind", "point", "fsync", "phase", "acknowledged_tokens", "started_tokens", "recovered_tokens", "survived",
        known.alias("phase_words"),
        (pl.col("recovered_tokens") - pl.col("acknowledged_tokens")).alias("beyond"),
        (pl.col("started_tokens") - pl.col("acknowledged_tokens")).alias("under_way"),
        pl.lit(0).alias("zero"),
        # Where in its row a kill is drawn; only so that they do not hide one another.
        ((pl.int_range(pl.len()) + 0.5) / pl.len()).over("phase").alias("place"),
        pl.when("survived").then(pl.lit(_SURVIVED)).otherwise(pl.lit(_LOST)).alias("result"),
    )  # fmt: skip


def _gather_chart(data: pl.DataFrame) -> alt.HConcatChart:
    """Rows a second against the batch, a panel for scattered and one for clustered survivors."""
    methods = dict(zip(METHOD_WORDS.values(), _METHOD_COLOURS, strict=True))
    legend = {"symbolStrokeWidth": 3, "symbolSize": 120, "symbolOpacity": 1}
    batches = {"type": "log", "base": 2, "values": sorted(set(data["rows"])), "grid": False, "format": ",d"}
    span = logarithmic(data["low"].min() / 1.2, data["high"].max() * 1.2)
    panels = []
    for spread in ("scattered", "clustered"):
        base = alt.Chart(data.filter(pl.col("spread") == spread)).encode(
            x=quantity("rows", "Survivors in one gather", **batches),
            color=coloured("label", methods, **legend),
        )  # fmt: skip
        title = None if panels else "Million rows a second"
        rates = quantity("median", title, alt.Y, format="~g", tickCount=5, **span)
        parts = [
            base.mark_rule(opacity=0.5, strokeWidth=3).encode(y=alt.Y("low:Q", title=title), y2="high:Q"),
            base.mark_line(strokeWidth=2).encode(y=rates),
            base.mark_circle(size=40, opacity=1).encode(y=rates),
        ]
        title = alt.Title(f"{spread.capitalize()} survivors", fontSize=12, color=MUTED)
        panels.append(alt.layer(*parts).properties(width=_PANEL + 10, height=230, title=title))
    return alt.hconcat(*panels, spacing=14)


def kills_figure(results: Results) -> Figure:
    """What every kill left."""
    data = _kill_frame(results.table("store.kills"))
    cut = results.table("store.kills")["cut_bytes"]
    below = data.filter(pl.col("beyond") < 0).height
    return Figure(
        "store_kills",
        "What a kill leaves of a store",
        _kill_chart(data),
        data,
        "A dot is a kill. Left: on the dashed line a store holds exactly what was acknowledged, below it would be a loss "
        f"({integer(below)} of {data.height}). Right: the grey bar is the append under way; a store may hold any whole part "
        "of it that reached the file, which nobody was promised. Kills are aimed at bytes and at calls, so that they do "
        f"not fall on phases as time does. Opening cut off torn writes of up to {integer(cut.max())} bytes.",
        sources=("store.kills",),
    )


def gather_frame(results: Results) -> pl.DataFrame:
    """A row a way of reading and batch: the range and the median of its repeats."""
    rate = pl.col("rows_per_second") / 1e6
    return (
        results.table("store.gathers")
        .group_by("spread", "rows", "method", maintain_order=True)
        .agg(
            pl.len().alias("repeats"),
            rate.min().alias("low"),
            rate.median().alias("median"),
            rate.max().alias("high"),
            (pl.col("bytes_per_second").median() / 1e9).alias("gb_s"),
            (pl.col("seconds").median() * 1e6).alias("microseconds"),
            pl.col("ratio").median(),
            pl.col("blocks").first(),
            pl.col("requests").first(),
        )
        .with_columns(pl.col("method").replace_strict(METHOD_WORDS).alias("label"))
    )


def gather_figure(results: Results) -> Figure:
    """Rows a second of each way of reading."""
    config, data = results.config["store"], gather_frame(results)
    largest = data.filter(pl.col("rows") == data["rows"].max(), pl.col("spread") == "scattered")
    checked = largest.filter(pl.col("method") == "map_verified")["ratio"][0]
    least = data.filter(pl.col("rows") == data["rows"].min(), pl.col("spread") == "scattered")
    small = least.filter(pl.col("method") == "map_verified")["ratio"][0]
    return Figure(
        "store_gather",
        "Survivors of one head, read back",
        _gather_chart(data),
        data,
        f"Rows of {config['head_dim']} K and as many V in fp16 out of {config['gather_tokens']:,} tokens, in the page cache; "
        f"clustered survivors come in runs of {config['run_tokens']}. Dots are medians, bars the range of "
        f"{counted(config['repeats'], 'repeat')}. A call costs the same however few rows it reads: with checksums, "
        f"{integer(data['rows'].min())} scattered rows take {factor(small)} the time of NumPy's fancy index in RAM, "
        f"{integer(data['rows'].max())} rows {factor(checked)}. By blocks, one system call reads each run of 4,096-byte blocks: "
        "that is for files that are not in memory. Times from the disk are in the chapter on memory tiers.",
    sources=("store.gathers",),)  # fmt: skip
