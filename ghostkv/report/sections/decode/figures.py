"""Charts of the decode: along its steps, by layer, by tier and by budget. Each takes a table of the stage."""

from __future__ import annotations

from collections.abc import Mapping

import altair as alt
import polars as pl

from ghostkv.report.charts import logarithmic, quantity
from ghostkv.report.document import Figure
from ghostkv.report.theme import BLUE, GREEN, MUTED, ORANGE, PURPLE, VERMILION, coloured

POLICIES = ("age", "lru", "attention", "ceiling")
TIERS = ("fast", "slow", "disk")
LOSS_WORDS = {
    "lost_mass": "lost mass",
    "output_error": "output error",
    "output_error_plain": "output error, not compensated",
}
_COLOURS = dict(zip(POLICIES, (ORANGE, BLUE, GREEN, MUTED), strict=True))
_TRACE = pl.col("source") == "trace"
_BUDGET_PANELS = ("hits of survivors", "re-resurrected share", "slow and disk, kB")


def _lines(data: pl.DataFrame, y: alt.Y, field: str, named: Mapping[str, str], height: int) -> alt.Chart:
    """Lines along the steps."""
    return (
        alt.Chart(data)
        .mark_line(strokeWidth=2)
        .encode(x=quantity("step", "Step"), y=y, color=coloured(field, named))
        .properties(width=560, height=height)
    )


def eliminated_figure(steps: pl.DataFrame) -> Figure:
    """Share of the cold keys that a step eliminates: mean over KV heads, and the least."""
    heads = ["all KV heads", "lowest KV head"]
    # Reads follow from records and thresholds, so any one policy stands for all.
    share = (pl.col("eliminated") / pl.col("cold")).fill_nan(None)
    data = (
        steps.filter(_TRACE, pl.col("policy") == "lru")
        .group_by("step", maintain_order=True)
        .agg(
            (pl.col("eliminated").sum() / pl.col("cold").sum()).fill_nan(None).alias(heads[0]),
            share.min().alias(heads[1]),
            pl.col("eliminated").mean().alias("tokens"),
        )
        .unpivot(
            ["all KV heads", "lowest KV head"],
            index=["step", "tokens"],
            variable_name="of",
            value_name="share",
        )
        .sort("of", "step")
    )
    y = quantity("share", "Eliminated of the cold keys", alt.Y, percent=True)
    chart = _lines(data, y, "of", dict(zip(heads, (BLUE, VERMILION), strict=True)), 240)
    return Figure(
        "decode_eliminated",
        "What a step eliminates",
        chart,
        data,
        "A point is the mean of a bin of steps; the red line is the KV head that eliminates least in that bin, which need not be "
        "the same one in all. Policies place keys and choose none, so the line is one for all of them. `tokens` in the data: "
        "eliminated a step and KV head.",
        sources=("decode.steps",),
    )


def steps_figure(steps: pl.DataFrame) -> Figure:
    """Resurrections a step, by policy."""
    data = (
        steps.filter(_TRACE)
        .group_by("policy", "step", maintain_order=True)
        .agg(pl.col("resurrected").mean())
        .sort("policy", "step")
    )
    y = quantity("resurrected", "Resurrected a step and KV head", alt.Y)
    chart = _lines(data, y, "policy", _COLOURS, 280)
    return Figure(
        "decode_steps",
        "Resurrections along the decode",
        chart,
        data,
        "Mean over layers and KV heads, a point a bin of steps. The ceiling is Belady's on the same reads.",
        sources=("decode.steps",),
    )


def layers_figure(spread: pl.DataFrame) -> Figure:
    """The tail of resurrections by layer and policy."""
    data = (
        spread.filter(_TRACE, pl.col("measure") == "resurrected")
        .group_by("policy", "layer", maintain_order=True)
        .agg(pl.col("mean").mean(), pl.col("p99").mean(), pl.col("max").max())
        .sort("policy", "layer")
    )
    chart = (
        alt.Chart(data)
        .mark_bar()
        .encode(
            x=alt.X("layer:O", axis=alt.Axis(title="Layer", labelAngle=0)),
            xOffset=alt.XOffset("policy:N", scale=alt.Scale(domain=list(POLICIES))),
            y=quantity("p99", "Resurrected a step, p99 over steps", alt.Y),
            color=coloured("policy", _COLOURS),
        )
        .properties(width=560, height=260)
    )
    return Figure(
        "decode_layers",
        "The tail of resurrections, layer by layer",
        chart,
        data,
        "p99 over steps, mean over the KV heads of a layer; the table beside it has means and the worst step.",
        sources=("decode.spread",),
    )


def bytes_figure(steps: pl.DataFrame) -> Figure:
    """Bytes that each tier gives along the decode, a panel a policy."""
    data = (
        steps.filter(_TRACE, pl.col("policy") != "ceiling")
        .group_by("policy", "step", maintain_order=True)
        .agg(*((pl.col(f"{tier}_read").mean() / 1e3).alias(tier) for tier in TIERS))
        .unpivot(list(TIERS), index=["policy", "step"], variable_name="tier", value_name="kilobytes")
        .with_columns(pl.col("tier").replace_strict({tier: n for n, tier in enumerate(TIERS)}).alias("order"))
        .sort("policy", "step", "order")
    )
    chart = (
        alt.Chart(data)
        .mark_area()
        .encode(
            x=quantity("step", "Step", tickCount=3),
            y=alt.Y("kilobytes:Q", stack="zero", axis=alt.Axis(title="Read a step and KV head (kB)")),
            color=coloured("tier", dict(zip(TIERS, (BLUE, ORANGE, VERMILION), strict=True))),
            order=alt.Order("order:Q"),
        )
        .properties(width=170, height=220)
        .facet(column=alt.Column("policy:N", title=None, sort=list(POLICIES)))
    )
    return Figure(
        "decode_bytes",
        "Where the bytes of a step come from",
        chart,
        data,
        "Mean over layers and KV heads, stacked; a point a bin of steps. Fast memory gives hot and warm K and V and the record of "
        "every cold key; slow memory and disk give what is resurrected. The sum is the same under every policy.",
        sources=("decode.steps",),
    )


def budget_figure(budgets: pl.DataFrame) -> Figure:
    """Hits, re-resurrections and bytes from outside fast memory against the warm slots, a line a policy."""
    data = budget_means(budgets.filter(_TRACE)).with_columns(
        pl.col("hit_share").alias(_BUDGET_PANELS[0]),
        pl.col("again_share").alias(_BUDGET_PANELS[1]),
        pl.col("outside_kilobytes").alias(_BUDGET_PANELS[2]),
    )
    data = (
        data.unpivot(
            list(_BUDGET_PANELS),
            index=["policy", "budget", "kilobytes"],
            variable_name="what",
            value_name="value",
        )
        .drop_nulls("value")
        .sort("what", "policy", "budget")
    )
    shares, warm = sorted(set(data["budget"].to_list())), "Warm slots, share of the tokens"
    base = alt.Chart(data).encode(
        x=quantity("budget", warm, percent=True, values=shares, **logarithmic(base=2)),
        y=alt.Y("value:Q", title=None, axis=alt.Axis(format=",~f")),
        color=coloured("policy", _COLOURS),
    )
    chart = (
        alt.layer(base.mark_line(strokeWidth=2), base.mark_circle(size=45, opacity=1))
        .properties(width=560, height=150)
        .facet(row=alt.Row("what:N", title=None, sort=list(_BUDGET_PANELS)))
        .resolve_scale(y="independent")
    )
    return Figure(
        "decode_budgets",
        "Policies by budget",
        chart,
        data,
        "The trace lived again with other numbers of warm slots, the slots of slow memory unchanged. Hits are a share of the survivors, "
        "re-resurrections of the resurrected; bytes are a step and KV head. The same KV heads at every "
        "budget, one of each layer unless the config says more. `kilobytes` in the data: K and V of the warm slots of a KV head. "
        "The ceiling knows the future; it moves no bytes, so its line is what its misses would weigh, and it has no "
        "re-resurrections.",
        sources=("decode.budgets",),
    )


def budget_means(budgets: pl.DataFrame) -> pl.DataFrame:
    """Means over KV heads by source, policy and budget; shares are of sums, so that heads weigh what they read."""
    return (
        budgets.group_by("source", "policy", "budget", maintain_order=True)
        .agg(
            pl.len().alias("heads"),
            (pl.col("budget_bytes").mean() / 1e3).alias("kilobytes"),
            (pl.col("hits").sum() / pl.col("survivors").sum()).fill_nan(None).alias("hit_share"),
            pl.col("resurrected").mean(),
            pl.col("resurrected_p99").max().alias("worst"),
            # A sum of nothing is 0, and the ceiling has no re-resurrections at all.
            pl.when(pl.col("re_resurrected").count() > 0)
            .then((pl.col("re_resurrected").sum() / pl.col("resurrected").sum()).fill_nan(None))
            .alias("again_share"),
            *(
                (pl.col(f"{name}_read").mean() / 1e3).alias(f"{name}_kilobytes")
                for name in ("slow", "disk", "outside")
            ),
        )
        .sort(~_TRACE, "source", "budget", maintain_order=True)
    )


def loss_steps_figure(loss_steps: pl.DataFrame) -> Figure:
    """Each loss along the decode: mean, p99 and the worst head."""
    lines = ("mean", "p99", "p99, worst head")
    data = (
        loss_steps.filter(_TRACE)
        .group_by("measure", "step", maintain_order=True)
        .agg(pl.col("mean").mean(), pl.col("p99").mean(), pl.col("p99").max().alias(lines[2]))
        .with_columns(pl.col("measure").replace(LOSS_WORDS).alias("loss"))
        .unpivot(list(lines), index=["loss", "step"], variable_name="line", value_name="value")
        .sort("loss", "line", "step")
    )
    y = quantity("value", "Loss of a step", alt.Y, percent=True)
    chart = (
        _lines(data, y, "line", dict(zip(lines, (BLUE, ORANGE, VERMILION), strict=True)), 140)
        .facet(row=alt.Row("loss:N", title=None, sort=list(LOSS_WORDS.values())))
        .resolve_scale(y="independent")
    )
    return Figure(
        "decode_loss_steps",
        "What is lost along the decode",
        chart,
        data,
        "A point a bin of steps: the mean over heads of a head's mean and of its p99 in the bin, and the head whose p99 is largest "
        "there. Each panel has a scale of its own. Hidden states are those of full attention: no error feeds on itself.",
        sources=("decode.loss_steps",),
    )


def losses_figure(losses: pl.DataFrame) -> Figure:
    """Quantiles of each head's losses, by layer."""
    named = {"p50": MUTED, "p90": BLUE, "p99": ORANGE, "max": PURPLE}
    data = losses.filter(_TRACE).with_columns(pl.col("measure").replace(LOSS_WORDS).alias("loss"))
    data = data.unpivot(list(named), index=["loss", "layer", "head"], variable_name="quantile").sort(
        "loss", "layer", "head", "quantile"
    )
    chart = (
        alt.Chart(data)
        .mark_circle(size=22, opacity=0.6)
        .encode(
            x=alt.X("layer:O", axis=alt.Axis(title="Layer", labelAngle=0)),
            xOffset=alt.XOffset("quantile:N", scale=alt.Scale(domain=list(named))),
            y=quantity("value", "Loss of a step", alt.Y, percent=True),
            color=coloured("quantile", named, title="Over steps"),
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
        sources=("decode.losses",),
    )
