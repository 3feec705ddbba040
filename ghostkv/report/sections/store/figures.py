"""Charts of the store: what kills left, and what gathers cost. Each takes the frame of the numbers that it draws."""

from __future__ import annotations

import altair as alt
import polars as pl

from ghostkv.report.charts import line_at
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


def kill_chart(data: pl.DataFrame) -> alt.HConcatChart:
    """Recovered against acknowledged tokens of every kill; beside it their difference by what was interrupted.

    Parameters
    ----------
    data : DataFrame
        Columns `acknowledged_tokens`, `recovered_tokens`, `beyond`, `under_way` (tokens), `phase_words`, `result`.
    """
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


def kill_frame(kills: pl.DataFrame) -> pl.DataFrame:
    """Kills as `kill_chart` draws them."""
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


def gather_chart(data: pl.DataFrame) -> alt.HConcatChart:
    """Rows a second against the batch, a panel for scattered and one for clustered survivors.

    Parameters
    ----------
    data : DataFrame
        Columns `spread`, `label`, `rows`, and `low`, `median`, `high` in millions of rows a second.
    """
    methods = dict(zip(METHOD_WORDS.values(), _METHOD_COLOURS, strict=True))
    legend = {"symbolStrokeWidth": 3, "symbolSize": 120, "symbolOpacity": 1}
    batches = sorted(set(data["rows"]))
    domain = [float(data["low"].min()) / 1.2, float(data["high"].max()) * 1.2]
    across = alt.Axis(title="Survivors in one gather", values=batches, grid=False, format=",d")
    panels = []
    for spread in ("scattered", "clustered"):
        base = alt.Chart(data.filter(pl.col("spread") == spread)).encode(
            x=alt.X("rows:Q", scale=alt.Scale(type="log", base=2), axis=across),
            color=coloured("label", methods, **legend),
        )  # fmt: skip
        title = None if panels else "Million rows a second"
        axis = alt.Axis(title=title, format="~g", tickCount=5)
        rates = alt.Y("median:Q", axis=axis, scale=alt.Scale(type="log", domain=domain, nice=False))
        parts = [
            base.mark_rule(opacity=0.5, strokeWidth=3).encode(y=alt.Y("low:Q", title=title), y2="high:Q"),
            base.mark_line(strokeWidth=2).encode(y=rates),
            base.mark_circle(size=40, opacity=1).encode(y=rates),
        ]
        title = alt.Title(f"{spread.capitalize()} survivors", fontSize=12, color=MUTED)
        panels.append(alt.layer(*parts).properties(width=_PANEL + 10, height=230, title=title))
    return alt.hconcat(*panels, spacing=14)
