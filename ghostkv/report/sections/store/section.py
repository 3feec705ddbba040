"""Stage `store`: survivors come back from a file, and nothing that was acknowledged is lost."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from ghostkv.report.document import Block, Chapter, Column, Prose, Table, aggregated, figures
from ghostkv.report.numbers import counted
from ghostkv.report.results import Results
from ghostkv.report.sections.store.figures import gather_figure, gather_frame, kills_figure

_KEPT = "CASE WHEN readable AND identical THEN recovered_tokens ELSE 0 END"


def build(results: Results) -> Sequence[Block]:
    """Kills first, then damage, then what it costs."""
    return [
        Prose(_reading(results)),
        kills_figure(results),
        _damage(results),
        gather_figure(results),
        _gather_table(results),
        _appends(results),
    ]


def _reading(results: Results) -> str:
    config, kills = results.config["store"], results.table("store.kills")
    own = kills.filter(pl.col("kind") == "byte")
    outside = kills.filter(pl.col("kind") == "delay")
    damage = results.table("store.corruptions")
    failed = kills.height - int(kills["survived"].sum())
    kept = pl.when(pl.col("readable") & pl.col("identical")).then("recovered_tokens").otherwise(0)
    lost = int(kills.select((pl.col("acknowledged_tokens") - kept).clip(lower_bound=0).sum()).item())
    silent = damage.filter(pl.col("outcome") == "silent").height
    refused = damage.filter(pl.col("outcome").str.starts_with("refused")).height
    return (
        "`GhostStore` keeps ghost records in memory and K,V in a memory-mapped file; docs/store.md has format, commit "
        "protocol and recovery. An append is *acknowledged* once it has returned. A process that appends was killed by "
        f"SIGKILL at {counted(own.height, 'random place')} of what it writes, half of them random bytes and half random "
        f"bytes of a random call, and {counted(outside.height, 'time')} from outside; each store was then opened with every "
        "row checked, compared bit by bit with what was appended, appended to, and opened again. "
        + (f"**{failed} of {kills.height} kills were not survived.** " if failed else f"All {kills.height} were survived. ")
        + (f"**{lost:,} acknowledged tokens were lost.**\n\n" if lost else "No acknowledged token was lost.\n\n")
        + f"Copies of a whole store were damaged {damage.height} times: {refused} were refused, "
        f"{damage.height - refused - silent} fell where nothing lies or a second mark stands in, and "
        + (f"**{silent} went unnoticed**. " if silent else "none went unnoticed. ")
        + f"Kills and damage try stores of {config['kill_layers']} layers and {config['kv_heads']} KV heads in segments of "
        f"{config['kill_segment_tokens']} tokens. A kill leaves the page cache alone: what a power cut leaves was not tried."
    )  # fmt: skip


def _damage(results: Results) -> Table:
    outcome = pl.col("outcome")
    complete = pl.col("named_file") & pl.col("named_offset").is_not_null() & pl.col("has_remedy")
    columns = {
        "file": Column("File"),
        "part": Column("Part"),
        "kind": Column("Damage"),
        "n": Column("n", "integer", pl.len()),
        "at_open": Column("Refused at open", "integer", (outcome == "refused at open").sum()),
        "at_read": Column("at read", "integer", (outcome == "refused at read").sum()),
        "complete": Column("complete", "integer", complete.filter(outcome.str.starts_with("refused")).sum()),
        "harmless": Column("Harmless", "integer", (outcome == "harmless").sum()),
        "silent": Column("Silent", "integer", (outcome == "silent").sum()),
        "repaired": Column("Repaired", "integer", pl.col("kept_identical").sum()),
        "kept": Column("kept", "number", pl.col("kept_tokens").mean()),
    }
    by = ["file", "part", "kind"]
    return Table(
        "store_damage",
        "One damage a store: a byte flipped, 64 bytes overwritten, 512 bytes zeroed, or the file cut off there. Rows are "
        "checked when they are read, everything else when the store is opened. *Harmless* stores gave back every bit. "
        "*Complete* refusals name the damaged file, an offset and a remedy. *Repaired* counts stores whose whole beginning "
        "`repair` kept, compared bit by bit; *kept* is its mean length in tokens. A damaged header cannot be repaired.",
        aggregated(results.table("store.corruptions"), by, columns).sort(by),
        columns,
        sources=("store.corruptions",),
    )


def _gather_table(results: Results) -> Table:
    return Table(
        "store_gather_table",
        "The same in numbers: medians of the repeats. *Over RAM* is the time over NumPy's in the same repeat; blocks and "
        "requests are what a read of the file touches.",
        gather_frame(results),
        {
            "spread": Column("Survivors"),
            "rows": Column("Rows", "integer"),
            "label": Column("Way"),
            "microseconds": Column("Time (us)", "number"),
            "gb_s": Column("GB/s", "number"),
            "ratio": Column("Over RAM", "factor"),
            "blocks": Column("Blocks", "integer"),
            "requests": Column("Requests", "integer"),
        },
        sources=("store.gathers",),
    )


def _appends(results: Results) -> Table:
    rate = pl.col("tokens_per_second")
    columns = {
        "fsync": Column("fsync", "yes_no"),
        "batch": Column("Tokens an append", "integer"),
        "milliseconds": Column("Time (ms)", "number", pl.col("seconds_per_append").median() * 1e3),
        "median": Column("Tokens/s", "integer", rate.median()),
        "low": Column("least", "integer", rate.min()),
        "high": Column("most", "integer", rate.max()),
        "mb_s": Column("MB/s", "number", pl.col("bytes_per_second").median() / 1e6),
        "repeats": Column("Repeats", "integer", pl.len()),
    }
    return Table(
        "store_appends",
        f"Appends of {results.config['store']['append_layers']} layers at once. With *fsync* an append is acknowledged when "
        "the disk has it, else when the kernel has it. A token that fills no segment is written twice, to the log and with "
        "its segment.",
        aggregated(results.table("store.appends"), ["fsync", "batch"], columns),
        columns,
        sources=("store.appends",),
    )


def _count(condition: str) -> str:
    return f"sum(CASE WHEN {condition} THEN 1 ELSE 0 END)"


_LOST = f"sum(CASE WHEN acknowledged_tokens > {_KEPT} THEN acknowledged_tokens - {_KEPT} ELSE 0 END)"
_UNHELPFUL = "NOT named_file OR named_offset IS NULL OR NOT has_remedy"
_LARGEST = "method = 'map_verified' AND spread = 'scattered' AND rows IN (SELECT max(rows) FROM self)"
_OVER_RAM = "time / that of NumPy in RAM, checksums verified, largest batch, scattered"
_APPENDED = "tokens/s, one token an append, without fsync"
_ONE_TOKEN = "NOT fsync AND batch IN (SELECT min(batch) FROM self)"
HEADLINE = (
    *figures(
        "store.kills",
        "self WHERE kind = 'byte'",
        {"store.kill_points_survived": ("kills at a random byte", _count("survived"))},
    ),
    *figures(
        "store.kills",
        "self",
        {
            "store.kills_not_survived": ("kills, from within and from outside", _count("NOT survived")),
            "store.acknowledged_records_lost": ("tokens, all layers and heads of each", _LOST),
        },
    ),
    *figures(
        "store.corruptions", "self", {"store.silent_corruptions": ("damages", _count("outcome = 'silent'"))}
    ),
    *figures(
        "store.corruptions",
        "self WHERE outcome LIKE 'refused%'",
        {"store.unhelpful_refusals": ("refusals", _count(_UNHELPFUL))},
    ),
    *figures(
        "store.gathers",
        f"self WHERE {_LARGEST}",
        {"store.gather_time_over_ram": (_OVER_RAM, "median(ratio)")},
    ),
    *figures(
        "store.appends",
        f"self WHERE {_ONE_TOKEN}",
        {"store.append_tokens_per_second": (_APPENDED, "median(tokens_per_second)")},
    ),
)
CHAPTER = Chapter(
    "store",
    "A store that survives",
    build,
    front=("store_kills",),
    needs=("store.kills", "store.corruptions", "store.gathers", "store.appends"),
    headline=HEADLINE,
)
