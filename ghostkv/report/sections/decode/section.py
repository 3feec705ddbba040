"""Stage `decode`: the life of every token over a trace, step by step."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from ghostkv.report.document import Block, Chapter, Column, Prose, Table, aggregated, figures
from ghostkv.report.expressions import in_words
from ghostkv.report.numbers import counted, number, percent
from ghostkv.report.results import Results
from ghostkv.report.sections.decode.figures import (
    LOSS_WORDS,
    TIERS,
    budget_figure,
    budget_means,
    bytes_figure,
    eliminated_figure,
    layers_figure,
    loss_steps_figure,
    losses_figure,
    steps_figure,
)

_STATES = {
    "hot_held": "hot",
    "warm_held": "warm",
    "ghost_held": "ghost",
    "archive_held": "archive",
    "promoted": "promoted to warm, a step",
    "evicted": "evicted from warm, a step",
    "archived": "archived, a step",
}


def _quantiles(kind: str) -> dict[str, Column]:
    """Quantiles over steps, averaged over heads; the worst head and the worst step beside them."""
    return {
        "mean": Column("Mean", kind),
        "p50": Column("p50", kind),
        "p99": Column("p99", kind),
        "worst": Column("p99, worst head", kind, pl.col("p99").max()),
        "max": Column("Worst step", kind, pl.col("max").max()),
    }


def build(results: Results) -> Sequence[Block]:
    """What a step resurrects, what it loses, where the bytes come from, budgets, and the real store."""
    # Asked for block by block: what is read before a block is printed as its source.
    table = results.table
    return [
        Prose(_reading(table("decode.spread"), table("decode.losses"), table("decode.store"))),
        eliminated_figure(table("decode.steps")),
        _eliminated(table("decode.spread")),
        steps_figure(table("decode.steps")),
        layers_figure(table("decode.spread")),
        _policies(table("decode.spread")),
        bytes_figure(table("decode.steps")),
        _bytes(table("decode.spread")),
        _states(table("decode.spread")),
        budget_figure(table("decode.budgets")),
        _budgets(table("decode.budgets")),
        loss_steps_figure(table("decode.loss_steps")),
        losses_figure(table("decode.losses")),
        _losses(table("decode.losses")),
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
    text += "Capacities are equal for all policies; the ceiling knows the future and is no policy."
    return f"{text}\n\n{_store(store)}" if store.height else text


def _store(store: pl.DataFrame) -> str:
    """What the real store gave back, and whether the kernel read what was counted."""
    wrong = int(store["wrong_rows"].sum())
    text = (
        f"**A real store**: layer {store['layer'][0]} appended every token and gathered every survivor from a file, "
        f"{int(store['rows'].sum()):,} rows, {_loud(wrong)} wrong. Median gather "
        f"{number(1e3 * store['gather_seconds'].median())} ms a step, append {number(1e3 * store['append_seconds'].median())} ms. "
    )
    asked = store.filter(pl.col("archived_rows") > 0)
    name = "LRU" if store["policy"][0] == "lru" else f"`{store['policy'][0]}`"
    if not asked.height:
        return text + f"{name} had nothing on disk alone that was read. "
    direct = bool(asked["direct"].all())
    text += (
        f"What {name} had on disk alone was read {'past the page cache' if direct else 'through the map'} at "
        f"{counted(asked.height, 'step')}: {int(asked['archived_rows'].sum()):,} rows, "
        f"{_loud(int(asked['archived_wrong_rows'].sum()))} wrong; whole blocks of the disk, counted: "
        f"{number(asked['counted_bytes'].sum() / 1e6)} MB, "
        f"{number(asked['counted_bytes'].sum() / asked['archived_bytes'].sum())} times the bytes of the rows; median "
        f"{number(1e3 * asked['archive_seconds'].median())} ms a step. "
    )
    known = asked.drop_nulls("read_bytes")
    if not known.height:
        why = (
            "keeps no account of reads here"
            if direct
            else "would not read past its page cache here (no O_DIRECT)"
        )
        return text + f"The kernel {why}, so that the bytes that were really read are not known. "
    same = float((known["counted_bytes"] == known["read_bytes"]).mean())
    share = percent(same, 0 if same == 1 else None)
    return text + (
        f"By the kernel's own account {number(known['read_bytes'].sum() / 1e6)} MB were read, to the byte what was counted at "
        f"{share if same == 1 else f'**only {share}**'} of these steps. "
    )


def _loud(wrong: int) -> str:
    return f"**{wrong:,}**" if wrong else "none"


def _policies(spread: pl.DataFrame) -> Table:
    wanted = ("survivors", "hits", "resurrected", "from_archive", "re_resurrected", "bytes_ratio")
    columns = {
        "source": Column("Source"),
        "policy": Column("Policy"),
        "measure": Column("A step"),
        "heads": Column("KV heads", "integer", pl.len()),
        **_quantiles("number"),
    }
    rows = spread.filter(pl.col("measure").is_in(wanted))
    return Table(
        "decode_policies",
        "A step and KV head under each policy at equal capacity: quantiles over steps, averaged over KV heads; *worst head* is "
        "the largest p99. The ceiling is a bound that knows the future. Sources other than the trace are generated tensors.",
        aggregated(rows, ["source", "policy", "measure"], columns).with_columns(in_words("measure")),
        columns,
        sources=("decode.spread",),
    )


def _eliminated(spread: pl.DataFrame) -> Table:
    cold, gone = pl.col("mean_cold"), pl.col("mean_eliminated")
    columns = {
        "source": Column("Source"),
        "heads": Column("KV heads", "integer", pl.len()),
        "mean_cold": Column("Cold keys", "integer"),
        "mean_eliminated": Column("Eliminated a step", "integer"),
        "p01_eliminated": Column("p1", "integer"),
        "share": Column("Share", "percent", gone.sum() / cold.sum()),
        "lowest": Column("Lowest KV head", "percent", (gone / cold).fill_nan(None).min()),
    }
    rows = spread.filter(pl.col("policy") == "lru", pl.col("measure").is_in(["cold", "eliminated"]))
    heads = rows.pivot("measure", index=["source", "layer", "kv_head"], values=["mean", "p01"])
    return Table(
        "decode_eliminated_table",
        "Keys that a step eliminates, which no policy changes. *p1*: all but one step in a hundred eliminate at least as many, "
        "averaged over KV heads. *Lowest KV head*: the one whose share is least.",
        aggregated(heads, "source", columns),
        columns,
        sources=("decode.spread",),
    )


def _spread_by(spread: pl.DataFrame, named: pl.DataFrame, scale: float) -> pl.DataFrame:
    """Quantiles of measures of the trace, by policy, in the order of `named`."""
    rows = spread.filter(pl.col("source") == "trace", pl.col("policy") != "ceiling")
    keys = ["policy", *named.columns, "order"]
    found = aggregated(named.with_row_index("order").join(rows, on="measure"), keys, _quantiles("number"))
    return found.sort("policy", "order").with_columns(pl.col(*_quantiles("number")) * scale)


def _bytes(spread: pl.DataFrame) -> Table:
    words = pl.DataFrame(
        [
            {"measure": f"{tier}_{what}", "tier": tier, "what": what}
            for what in ("read", "written", "held")
            for tier in TIERS
        ]
    )
    return Table(
        "decode_bytes_table",
        "Bytes by tier, in kB of one KV head on the trace: read and written a step, held when it reads. Quantiles are over steps, "
        "averaged over KV heads; *worst head* is the largest p99. Fast memory holds hot and warm K and V, the records, and "
        "what the policy keeps of a token (age nothing, LRU 4 bytes a cold one, attention 8, and 4 a hot one).",
        _spread_by(spread, words, 1e-3),
        {"policy": Column("Policy"), "what": Column("Bytes"), "tier": Column("Tier"), **_quantiles("number")},
        sources=("decode.spread",),
    )


def _states(spread: pl.DataFrame) -> Table:
    words = pl.DataFrame({"measure": list(_STATES), "state": list(_STATES.values())})
    return Table(
        "decode_states",
        "Tokens of one KV head in each state when a step reads, and those that move; trace, as in the table above.",
        _spread_by(spread, words, 1.0),
        {"policy": Column("Policy"), "state": Column("Tokens"), **_quantiles("number")},
        sources=("decode.spread",),
    )


def _budgets(budgets: pl.DataFrame) -> Table:
    return Table(
        "decode_budgets_table",
        "Policies by budget: the same KV heads at every number of warm slots. Shares are of sums over KV heads, bytes are means a "
        "step and KV head. For the ceiling, *slow and disk* is what its misses weigh and *disk* the least that disk must "
        "serve; the rest belongs to policies alone.",
        budget_means(budgets),
        {
            "source": Column("Source"),
            "budget": Column("Warm slots of the tokens", "percent"),
            "kilobytes": Column("K and V, kB", "number"),
            "policy": Column("Policy"),
            "heads": Column("KV heads", "integer"),
            "hit_share": Column("Hits of survivors", "percent"),
            "resurrected": Column("Resurrected a step", "number"),
            "worst": Column("p99, worst KV head", "number"),
            "again_share": Column("Re-resurrected", "percent"),
            "outside_kilobytes": Column("Slow and disk, kB a step", "number"),
            "slow_kilobytes": Column("Slow", "number"),
            "disk_kilobytes": Column("Disk", "number"),
        },
        sources=("decode.budgets",),
    )


def _losses(losses: pl.DataFrame) -> Table:
    columns = {
        "source": Column("Source"),
        "measure": Column("Loss"),
        "heads": Column("Heads", "integer", pl.len()),
        **_quantiles("percent"),
    }
    return Table(
        "decode_losses_table",
        "Losses of a step and head: quantiles over steps, averaged over heads; *worst head* is the largest p99.",
        aggregated(losses, ["source", "measure"], columns).with_columns(
            pl.col("measure").replace(LOSS_WORDS)
        ),
        columns,
        sources=("decode.losses",),
    )


def _lru(measure: str) -> str:
    return f"self WHERE source = 'trace' AND policy = 'lru' AND measure {measure}"


def _sum_of(measure: str, what: str) -> str:
    return f"sum(CASE WHEN measure = '{measure}' THEN {what} ELSE 0 END)"


_AGAIN = f"{_sum_of('re_resurrected', 'mean')} / nullif({_sum_of('resurrected', 'mean')}, 0)"
_AGREE = "avg(CASE WHEN read_bytes = counted_bytes THEN 1.0 ELSE 0.0 END)"
_PER_STEP = "tokens of a KV head, p99 over steps, mean over KV heads"
_ACCOUNTED = "share of the steps whose reads past the page cache the kernel accounts as counted"
HEADLINE = (
    *figures("decode.spread", _lru("= 'cold'"), {"decode.steps": ("steps", "max(steps)")}),
    *figures(
        "decode.spread", _lru("= 'resurrected'"), {"decode.resurrected_per_step_p99": (_PER_STEP, "avg(p99)")}
    ),
    *figures(
        "decode.losses",
        "self WHERE source = 'trace' AND measure = 'output_error'",
        {"decode.output_error_p99": ("relative, p99 over steps, mean over heads", "avg(p99)")},
    ),
    *figures(
        "decode.spread",
        _lru("IN ('resurrected', 're_resurrected')"),
        {"decode.re_resurrection_share": ("of the resurrected tokens", _AGAIN)},
        _sum_of("resurrected", "1"),
    ),
    *figures(
        "decode.store",
        "self WHERE read_bytes IS NOT NULL",
        {"decode.disk_bytes_agreement": (_ACCOUNTED, _AGREE)},
    ),
)
CHAPTER = Chapter(
    "decode",
    "What does a long decode read, move and lose?",
    build,
    front=("decode_steps", "decode_bytes"),
    needs=tuple(f"decode.{name}" for name in ("steps", "spread", "losses", "loss_steps", "budgets", "store")),
    headline=HEADLINE,
)
