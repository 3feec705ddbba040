"""Stage `decode`: the life of every token over a trace, step by step."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import polars as pl

from ghostkv.report.document import Block, Column, Figure, HeadlineFigure, Prose, Section, Table
from ghostkv.report.numbers import counted, number, percent
from ghostkv.report.results import Results
from ghostkv.report.theme import BLUE, GREEN, MUTED, ORANGE, PURPLE, percent_axis

_POLICIES = ("age", "lru", "attention", "ceiling")
_COLOURS = alt.Scale(domain=list(_POLICIES), range=[ORANGE, BLUE, GREEN, MUTED])
_LOSSES = {
    "lost_mass": "lost mass",
    "output_error": "output error",
    "output_error_plain": "output error, not compensated",
}


def build(results: Results) -> Sequence[Block]:
    """What a step resurrects, what it loses, where the bytes come from, and the real store."""
    spread, losses = results.table("decode.spread"), results.table("decode.losses")
    return [
        Prose(_reading(spread, losses, results.table("decode.store"))),
        _steps_figure(results.table("decode.steps")),
        _layers_figure(spread),
        _loss_figure(losses),
        _policies(spread),
        _losses(losses),
    ]


def _of(spread: pl.DataFrame, measure: str, policy: str = "lru") -> pl.DataFrame:
    return spread.filter(
        pl.col("source") == "trace", pl.col("measure") == measure, pl.col("policy") == policy
    )


def _reading(spread: pl.DataFrame, losses: pl.DataFrame, store: pl.DataFrame) -> str:
    cold, gone, back = (_of(spread, name) for name in ("cold", "eliminated", "resurrected"))
    again, best = _of(spread, "re_resurrected"), _of(spread, "resurrected", "ceiling")
    error = losses.filter(pl.col("source") == "trace", pl.col("measure") == "output_error")
    worst = error.sort("p99").tail(1).row(0, named=True) if error.height else None
    text = (
        f"A decode over the trace, {int(cold['steps'].max()):,} steps in order and teacher-forced, on "
        f"{counted(cold['layer'].n_unique(), 'layer')}. A step eliminates {percent(gone['mean'].sum() / cold['mean'].sum())} of the "
        f"cold keys and, under LRU, resurrects {number(back['mean'].mean())} a KV head from slow memory or disk (p99 over "
        f"steps {number(back['p99'].mean())}, worst step {number(back['max'].max())}); "
        f"{percent(again['mean'].sum() / max(back['mean'].sum(), 1e-9))} of them had been resurrected shortly before. "
        f"The best that any choice of as many warm tokens could do on the same reads is {number(best['mean'].mean())}. "
    )
    if worst:
        text += (
            f"Output error p99 over steps: {percent(error['p99'].mean())} in the mean over heads, "
            f"{percent(worst['p99'])} on the worst (layer {worst['layer']}, head {worst['head']}). "
        )
    if store.height:
        wrong, ratio = int(store["wrong_rows"].sum()), store.drop_nulls("block_bytes")
        text += (
            f"**A real store**: layer {store['layer'][0]} appended every token and gathered every survivor from a file, "
            f"{int(store['rows'].sum()):,} rows, {'none' if not wrong else f'**{wrong:,}**'} wrong; counted and gathered bytes "
            f"{'agree' if (store['counted_bytes'] == store['gathered_bytes']).all() else '**differ**'}; whole blocks take "
            f"{number(ratio['block_bytes'].sum() / max(ratio['block_rows_bytes'].sum(), 1))} times the bytes of the rows. Median gather "
            f"{number(1e3 * store['gather_seconds'].median())} ms a step, append {number(1e3 * store['append_seconds'].median())} ms. "
        )
    return text + "Capacities are equal for all policies; the ceiling knows the future and is no policy."


def _steps_figure(steps: pl.DataFrame) -> Figure:
    data = (
        steps.filter(pl.col("source") == "trace")
        .group_by("policy", "step", maintain_order=True)
        .agg(pl.col("resurrected").mean())
        .sort("policy", "step")
    )
    chart = (
        alt.Chart(data)
        .mark_line(strokeWidth=2)
        .encode(
            x=alt.X("step:Q", axis=alt.Axis(title="Step")),
            y=alt.Y("resurrected:Q", axis=alt.Axis(title="Resurrected a step and KV head")),
            color=alt.Color("policy:N", scale=_COLOURS, legend=alt.Legend(title=None, orient="top")),
        )
        .properties(width=560, height=280)
    )
    return Figure(
        "decode_steps",
        "Resurrections along the decode",
        chart,
        data,
        "Mean over layers and KV heads, a point a bin of steps. The ceiling is Belady's on the same reads.",
    )


def _layers_figure(spread: pl.DataFrame) -> Figure:
    data = (
        spread.filter(pl.col("source") == "trace", pl.col("measure") == "resurrected")
        .group_by("policy", "layer", maintain_order=True)
        .agg(pl.col("mean").mean(), pl.col("p99").mean(), pl.col("max").max())
        .sort("policy", "layer")
    )
    chart = (
        alt.Chart(data)
        .mark_bar()
        .encode(
            x=alt.X("layer:O", axis=alt.Axis(title="Layer", labelAngle=0)),
            xOffset=alt.XOffset("policy:N", scale=alt.Scale(domain=list(_POLICIES))),
            y=alt.Y("p99:Q", axis=alt.Axis(title="Resurrected a step, p99 over steps")),
            color=alt.Color("policy:N", scale=_COLOURS, legend=alt.Legend(title=None, orient="top")),
        )
        .properties(width=560, height=260)
    )
    return Figure(
        "decode_layers",
        "The tail of resurrections, layer by layer",
        chart,
        data,
        "p99 over steps, mean over the KV heads of a layer; the table beside it has means and the worst step.",
    )


def _loss_figure(losses: pl.DataFrame) -> Figure:
    data = losses.filter(pl.col("source") == "trace").with_columns(
        pl.col("measure").replace(_LOSSES).alias("loss")
    )
    data = data.unpivot(
        ["p50", "p90", "p99", "max"], index=["loss", "layer", "head"], variable_name="quantile"
    ).sort("loss", "layer", "head", "quantile")
    chart = (
        alt.Chart(data)
        .mark_circle(size=22, opacity=0.6)
        .encode(
            x=alt.X("layer:O", axis=alt.Axis(title="Layer", labelAngle=0)),
            xOffset=alt.XOffset("quantile:N", scale=alt.Scale(domain=["p50", "p90", "p99", "max"])),
            y=alt.Y("value:Q", axis=percent_axis("Loss of a step")),
            color=alt.Color(
                "quantile:N",
                scale=alt.Scale(domain=["p50", "p90", "p99", "max"], range=[MUTED, BLUE, ORANGE, PURPLE]),
                legend=alt.Legend(title="Over steps", orient="top"),
            ),
        )
        .properties(width=560, height=150)
        .facet(row=alt.Row("loss:N", title=None))
    )
    return Figure(
        "decode_losses",
        "What a step loses, by layer",
        chart,
        data,
        "A dot is a head: quantiles over its steps. Errors are relative to the exact output of the head.",
    )


def _policies(spread: pl.DataFrame) -> Table:
    wanted = ("survivors", "hits", "resurrected", "from_archive", "re_resurrected", "bytes_ratio")
    data = (
        spread.filter(pl.col("measure").is_in(wanted))
        .group_by("source", "policy", "measure", maintain_order=True)
        .agg(
            pl.len().alias("heads"),
            pl.col("mean", "p50", "p99").mean(),
            pl.col("p99").max().alias("worst"),
            pl.col("max").max(),
        )
    )
    return Table(
        "decode_policies",
        "A step and KV head under each policy at equal capacity: quantiles over steps, averaged over KV heads; *worst head* is "
        "the largest p99. The ceiling is a bound that knows the future. Sources other than the trace are generated tensors.",
        data.with_columns(pl.col("measure").str.replace_all("_", " ")),
        {
            "source": Column("Source"),
            "policy": Column("Policy"),
            "measure": Column("A step"),
            "heads": Column("KV heads", "integer"),
            "mean": Column("Mean", "number"),
            "p50": Column("p50", "number"),
            "p99": Column("p99", "number"),
            "worst": Column("p99, worst head", "number"),
            "max": Column("Worst step", "number"),
        },
    )


def _losses(losses: pl.DataFrame) -> Table:
    data = losses.group_by("source", "measure", maintain_order=True).agg(
        pl.len().alias("heads"),
        pl.col("mean", "p50", "p99").mean(),
        pl.col("p99").max().alias("worst"),
        pl.col("max").max(),
    )
    return Table(
        "decode_losses_table",
        "Losses of a step and head: quantiles over steps, averaged over heads; *worst head* is the largest p99.",
        data.with_columns(pl.col("measure").replace(_LOSSES)),
        {
            "source": Column("Source"),
            "measure": Column("Loss"),
            "heads": Column("Heads", "integer"),
            "mean": Column("Mean", "percent"),
            "p50": Column("p50", "percent"),
            "p99": Column("p99", "percent"),
            "worst": Column("p99, worst head", "percent"),
            "max": Column("Worst step", "percent"),
        },
    )


_LRU = " FROM self WHERE source = 'trace' AND policy = 'lru' AND measure "
SECTION = Section(
    "decode",
    "What does a long decode read, move and lose?",
    build,
    needs=("decode.steps", "decode.spread", "decode.losses", "decode.store"),
    headline=(
        HeadlineFigure(
            "decode.steps",
            "steps",
            "decode.spread",
            "SELECT max(steps) AS value, count(*) AS n" + _LRU + "= 'cold'",
        ),
        HeadlineFigure(
            "decode.resurrected_per_step_p99",
            "tokens of a KV head, p99 over steps, mean over KV heads",
            "decode.spread",
            "SELECT avg(p99) AS value, count(*) AS n" + _LRU + "= 'resurrected'",
        ),
        HeadlineFigure(
            "decode.output_error_p99",
            "relative, p99 over steps, mean over heads",
            "decode.losses",
            "SELECT avg(p99) AS value, count(*) AS n FROM self WHERE source = 'trace' AND measure = 'output_error'",
        ),
        HeadlineFigure(
            "decode.re_resurrection_share",
            "of the resurrected tokens",
            "decode.spread",
            "SELECT sum(CASE WHEN measure = 're_resurrected' THEN mean ELSE 0 END) / "
            "nullif(sum(CASE WHEN measure = 'resurrected' THEN mean ELSE 0 END), 0) AS value, "
            "sum(CASE WHEN measure = 'resurrected' THEN 1 ELSE 0 END) AS n"
            + _LRU
            + "IN ('resurrected', 're_resurrected')",
        ),
    ),
)
