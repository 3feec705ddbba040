"""Stage `reproduce`: tables of other works again, with what they published beside it and why it differs."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl
from scipy.special import stdtrit

from ghostkv.report.document import Block, Chapter, Column, HeadlineFigure, Prose, Table, figures
from ghostkv.report.expressions import in_words
from ghostkv.report.names import method
from ghostkv.report.numbers import counted, percent, ratio, tiny
from ghostkv.report.results import Results
from ghostkv.stages.reproduce.published import SPARQ_KEYS, SPARQ_LOCAL

_NAMES = {
    "louver": "Louver", "louver_hot": "Louver, threshold from hot window", "louver_sampled": "Louver, sampled threshold",
    "hnsw": "HNSW", "ivf": "IVF", "lsh": "LSH", "streaming": "StreamingLLM", "twilight": "Twilight, top-p of exact scores",
    "pqcache": "PQCache", "vattention": "vAttention (oracle top-k)",
}  # fmt: skip
_WHY_RECALL = {
    "louver": "the exact k-th score is given: nothing below it is wanted; theirs loses keys by rounding",
    "hnsw": "keys at norm 1 rank by angle, and how much that differs from q.k is the model's",
    "ivf": "lists by inner product, k-means from one start; how keys cluster is the model's",
    "pq": "8 pieces of a key of another width",
    "lsh": "signs know angles alone; keys and queries of one model share them more than those of another",
    "quest": "the k / 16 best pages hold what the model's neighbouring keys share",
    "streaming": "the most recent keys are those at the end of the text, for a query anywhere",
}
_WHY_ERROR = {
    "oracle_topp": "one share of mass for all heads: it gains where heads and layers differ, the more so at high density",
    "oracle_topk": "how concentrated attention is: another model and text, and a context an eighth as long",
    "pqcache": "centres of 2,048 keys rather than of 32k, for keys half as wide",
    "quest": "pages of the same bits a coordinate; fewer pages in a shorter context",
    "double_sparsity": "channels by queries with positions applied, where theirs are chosen before that",
    "magicpig": "a key's coordinate for its norm is large where norms differ, and hides its direction",
    "vattention": "eps and delta are searched as one; a base sample is a few dozen keys here",
}
BOARD = "frame = 'scaled' AND source = 'board' AND density = 0.1"


def build(results: Results) -> Sequence[Block]:
    """Louver's table twice, SkyLight's, SparQ's, and the predecessor's rows where its files were given."""
    blocks: list[Block] = [Prose(_reading(results)), _published(results), _fair(results)]
    if results.table("reproduce.board").height:
        blocks.append(_board(results))
    if results.table("reproduce.characters").height:
        blocks.append(_characters(results))
    if results.table("reproduce.predecessor").height:
        blocks.append(_predecessor(results))
    return blocks


def _named(name: str) -> str:
    return _NAMES.get(name) or method(name)


def _value(results: Results, name: str) -> float | None:
    return results.figures.get(name, {}).get("value")


def _recall(results: Results, protocol: str) -> pl.DataFrame:
    """Texts count alike."""
    rows = results.table("reproduce.recall").filter(protocol=protocol).sort("k", maintain_order=True)
    columns = pl.col("recall", "candidates", "bytes_ratio", "theirs").mean()
    found = rows.group_by("method", "k", maintain_order=True).agg(
        columns, pl.col("queries").sum(), pl.col("text").n_unique().alias("texts")
    )
    return found.with_columns(
        in_words("method", _named).alias("name"), (pl.col("recall") - pl.col("theirs")).alias("difference")
    )


def _reading(results: Results) -> str:
    fair = _recall(results, "fair").filter(method="louver").row(0, named=True)
    text = (
        "Tables that others published, measured again by their own protocols on the captures of this run. The model, the texts and the "
        "context differ from theirs, so that an order and a level can agree, and a third digit cannot.\n\n"
        f"Louver returns every one of the top {fair['k']} keys, as its authors say. A query that sees its own past and is told the exact "
        f"threshold gets {percent(fair['candidates'])} of all keys returned for that, for a bytes ratio of {ratio(fair['bytes_ratio'])}."
    )
    spearman = _value(results, "reproduce.skylight_spearman")
    if spearman is not None:
        text += (
            f"\n\nSpearman's correlation with the order of {counted(results.figures['reproduce.skylight_spearman']['n'], 'method')} on "
            f"SkyLight's board, at a density of 10 %: {ratio(spearman)}."
        )
    worst = _value(results, "reproduce.predecessor_max_difference")
    if worst is not None:
        text += f"\n\nThe predecessor's rows come out again to {tiny(worst)}, but for figures that rounding its tensors decides."
    return text


def _published(results: Results) -> Table:
    rows = _recall(results, "published").drop_nulls("theirs")
    return Table(
        "reproduce_recall",
        "Louver's recall table as published: exact top-k by q.k over all keys of a text, also those after the query; the exact k-th score "
        "as threshold. Theirs: Llama-3.2-3B, n = 2,400 queries.",
        rows.with_columns(in_words("method", _WHY_RECALL.__getitem__).alias("why")),
        {
            "name": Column("Method"),
            "k": Column("k", "integer"),
            "recall": Column("Recall", "ratio"),
            "theirs": Column("theirs", "ratio"),
            "difference": Column("difference", "ratio"),
            "candidates": Column("Keys returned", "percent"),
            "queries": Column("n queries", "integer"),
            "texts": Column("n texts", "integer"),
            "why": Column("What it hangs on"),
        },
        sources=("reproduce.recall",),
    )


def _fair(results: Results) -> Table:
    return Table(
        "reproduce_recall_fair",
        "The same made fair: a query sees its own past; Louver's threshold is the exact one (first row of each k), what sinks and hot "
        "window say, or a guess from every eighth key; Quest gets as many keys as Louver's first row and its own bounds. Bytes: the index, "
        "the K that is read to search it, and K and V of what is returned, over K and V of all keys.",
        _recall(results, "fair"),
        {
            "name": Column("Method"),
            "k": Column("k", "integer"),
            "recall": Column("Recall", "ratio"),
            "candidates": Column("Keys returned", "percent"),
            "bytes_ratio": Column("Bytes ratio", "ratio"),
            "queries": Column("n queries", "integer"),
            "texts": Column("n texts", "integer"),
        },
        sources=("reproduce.recall",),
    )


def _board(results: Results) -> Table:
    rows = (
        results.table("reproduce.board")
        .drop_nulls("theirs")
        .with_columns(
            in_words("method", _named).alias("name"),
            in_words("method", _WHY_ERROR.__getitem__).alias("why"),
            (pl.col("ours") - pl.col("theirs")).alias("difference"),
        )
    )
    return Table(
        "reproduce_errors",
        "SkyLight's attention error, ||true - out|| / ||true|| over the heads of a layer, mean over calls, at a share of keys read (the "
        "index not counted). Scaled: sinks and window are the same share of the context as 128 tokens of 32,768; literal: 128 and 128 "
        "tokens. Board: averages over tasks and two models of 8B; qa_2: Llama-3.1-8B on that task at the nearest density. HashAttention is "
        "left out, as its weights are trained for each model.",
        rows.sort("frame", "source", "density", "theirs", descending=[True, False, False, False]),
        {
            "frame": Column("Sinks and window"),
            "source": Column("Source"),
            "density": Column("Density", "percent"),
            "name": Column("Method"),
            "ours": Column("Error", "ratio"),
            "theirs": Column("theirs", "ratio"),
            "difference": Column("difference", "ratio"),
            "calls": Column("n calls", "integer"),
            "texts": Column("n texts", "integer"),
            "why": Column("What it hangs on"),
        },
        sources=("reproduce.board",),
    )


def _characters(results: Results) -> Table:
    rows = results.table("reproduce.characters")
    dense = rows.filter(pl.col("components").is_null()).select("text", dense="bits", their_dense="theirs")
    loss = pl.col("bits") - pl.col("dense")
    found = (
        rows.join(dense, on="text")
        .group_by("components", maintain_order=True)
        .agg(
            pl.col("bits", "bytes_ratio_gqa", "theirs").mean(),
            loss.mean().alias("loss"),
            (pl.col("theirs") - pl.col("their_dense")).mean().alias("their_loss"),
            # Of Student's interval over texts; null for a single one.
            (loss.std() / pl.len().sqrt() * float(stdtrit(max(1, dense.height - 1), 0.975))).alias("half"),
            pl.len().alias("texts"),
            pl.col("characters").sum(),
        )
        .with_columns(pl.col("components").cast(pl.String).fill_null("all are read"))
    )
    return Table(
        "reproduce_characters",
        f"SparQ's bits per character: the beginning of a text is read densely, and the characters after it are foretold with the "
        f"{SPARQ_KEYS} keys of best approximate score, the last {SPARQ_LOCAL} among them, in every layer. Theirs: Pythia-410m, n = 200. "
        "It hangs on model and text, and on heads of a KV head that choose together, where Pythia's have one each.",
        found,
        {
            "components": Column("Components of a query"),
            "bits": Column("Bits per character", "ratio"),
            "theirs": Column("theirs", "ratio"),
            "loss": Column("above dense", "ratio"),
            "half": Column("±, 95 %", "ratio"),
            "their_loss": Column("theirs above dense", "ratio"),
            "bytes_ratio_gqa": Column("Bytes ratio, GQA-true", "ratio"),
            "characters": Column("n characters", "integer"),
            "texts": Column("n texts", "integer"),
        },
        sources=("reproduce.characters",),
    )


def _predecessor(results: Results) -> Table:
    decided = pl.col("difference").abs().filter(~pl.col("undecided")).max()
    rows = results.table("reproduce.predecessor").group_by("measure", maintain_order=True)
    return Table(
        "reproduce_predecessor",
        "The predecessor's rows whose tensors it published, figure by figure. Undecided: the tensors were rounded to float16 after they "
        "were measured, and the published figure comes out for some that round to them; a figure is an overlap of few keys then.",
        rows.agg(
            pl.len().alias("rows"),
            decided.alias("largest"),
            pl.col("undecided").sum(),
            pl.col("difference").abs().max().alias("with"),
        ).with_columns(pl.col("measure").str.replace_all("_", " ", literal=True).alias("name")),
        {
            "name": Column("Figure"),
            "rows": Column("n rows", "integer"),
            "largest": Column("Largest difference", "tiny"),
            "undecided": Column("Undecided", "integer"),
            "with": Column("largest of all", "tiny"),
        },
        sources=("reproduce.predecessor",),
    )


def _spearman(rows: str) -> str:
    return (
        "SELECT 1 - 6 * sum((rank_ours - rank_theirs) * (rank_ours - rank_theirs)) / (count(*) * (count(*) * count(*) - 1)) AS value, "
        f"count(*) AS n FROM self WHERE {rows} AND rank_ours IS NOT NULL"
    )


_DECIDED = "largest difference of a figure that the files decide", "max(abs(difference))"
_UNDECIDED = "figures that rounding of the files decides", "sum(CAST(undecided AS BIGINT))"
_ORDER = "Spearman's correlation of errors by method with SkyLight's board"
CHAPTER = Chapter(
    "reproduce",
    "Others' tables",
    build,
    front=("reproduce_recall",),
    needs=("reproduce.recall", "reproduce.board", "reproduce.predecessor", "reproduce.characters"),
    headline=(
        HeadlineFigure(
            "reproduce.skylight_spearman", f"{_ORDER}, density 10 %", "reproduce.board", _spearman(BOARD)
        ),
        HeadlineFigure(
            "reproduce.skylight_spearman_20pct",
            f"{_ORDER}, density 20 %",
            "reproduce.board",
            _spearman(BOARD.replace("0.1", "0.2")),
        ),
        HeadlineFigure(
            "reproduce.skylight_spearman_literal",
            f"{_ORDER}, density 10 %, sinks and window of 128 tokens each",
            "reproduce.board",
            _spearman(BOARD.replace("scaled", "literal")),
        ),
        *figures(
            "reproduce.predecessor",
            "self WHERE NOT undecided",
            {"reproduce.predecessor_max_difference": _DECIDED},
        ),
        *figures(
            "reproduce.predecessor",
            "self",
            {"reproduce.predecessor_undecided": _UNDECIDED},
        ),
        *figures(
            "reproduce.recall",
            "self WHERE protocol = 'published' AND theirs IS NOT NULL",
            {
                "reproduce.louver_recall_difference": (
                    "mean distance from the published recall",
                    "avg(abs(recall - theirs))",
                )
            },
        ),
        *figures(
            "reproduce.recall",
            "self WHERE protocol = 'fair' AND method = 'louver' AND k = (SELECT min(k) FROM self)",
            {
                "reproduce.louver_candidates": (
                    "share of keys returned at the least k, causal, exact threshold",
                    "avg(candidates)",
                ),
                "reproduce.louver_bytes_ratio": ("bytes ratio there", "avg(bytes_ratio)"),
            },
            "sum(queries)",
        ),
    ),
)
