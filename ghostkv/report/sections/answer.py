"""The question that the lab asks, and what this run says to it."""

from __future__ import annotations

import re
from collections.abc import Sequence

import polars as pl

from ghostkv.report.document import Block, Chapter, Column, Prose, Table, aggregated
from ghostkv.report.expressions import means
from ghostkv.report.numbers import FORMATS, counted, factor, listed, percent, ratio, tiny
from ghostkv.report.results import Results
from ghostkv.report.sections.frontier import by_bytes
from ghostkv.report.sections.key_numbers import key_numbers
from ghostkv.report.sections.quality.figures import best_rival, bytes_figure, family_name, role
from ghostkv.report.sentences import ANSWER, answers
from ghostkv.report.summaries import (
    BYTES_GQA,
    ELIMINATION,
    Promise,
    calibration_queries,
    head_name,
    mean,
    operating_point,
    points_by_text,
    promises,
    spread,
    worst,
)

# A smaller gain in elimination is not worth a sentence.
_NOTABLE = 0.01


def build(results: Results) -> Sequence[Block]:
    """Three sentences, a picture and four numbers; then both operating points with their spread, and each domain alone."""
    chosen = promises(results)
    said = [_opening(results), *(_numbers(results, promise) for promise in chosen), *_in_the_loop(results)]
    return [
        Prose(_first(results)),
        bytes_figure(results) if results.has("quality.summary") else by_bytes(results),
        key_numbers(results),
        Prose("\n\n".join([*said, _sureness(results), _limits(results)]), sources=_also(results)),
        *(_spread_table(results, promise) for promise in chosen),
        *(_domain_table(results, promise) for promise in chosen),
    ]


def _first(results: Results) -> str:
    """The answer: the sentences that the README begins with, or, where one of them lacks its figures, whether there is any."""
    found = [re.sub(r" \(\[.*?\]\(.*?\)\)", "", said) for said in answers(results.figures)]
    if len(found) < len(ANSWER):
        found.insert(0, _opening(results))
    return "\n".join(f"- {said}" for said in found)


def _also(results: Results) -> list[str]:
    """Tables that the answer reads where they are there."""
    return [
        name for name in ("quality.summary", "quality.equal_bytes", "model.manifest") if results.has(name)
    ]


def _opening(results: Results) -> str:
    safe = results.table("frontier.safe_points").filter(results.is_headline)
    count, share = int(safe["safe"].sum()), safe["safe"].mean()
    model = results.manifest().get("model", "this model")
    if safe["theta"].is_null().all():
        rules = results.frontier["safe"]
        answer = (
            "This run cannot tell: it has too few threshold queries to promise anything."
            if _too_few(results, rules["fer"] * rules["margin"])
            else "Not with this design: no threshold of the grid loses so little."
        )
    elif count == safe.height:
        answer = "Yes, in every head."
    else:
        answer = f"In {count} of {safe.height} heads." if count else "Not with this design, in no head."
    rules = results.frontier["safe"]
    return (
        f"**{answer}** Can meaningful elimination happen with acceptable loss on {model}? With the "
        f"{results.design} as ghost record, {count} of {safe.height} heads ({percent(share)}) "
        "have a safe point: on text that neither the codec nor the threshold has seen, at least "
        f"{percent(rules['elimination'], 0)} of the cold keys are eliminated while at most "
        f"{percent(rules['fer'], 0)} of the {results.frontier['top_k']} keys of largest exact score are lost."
    )


def _numbers(results: Results, promise: Promise) -> str:
    point, oracle = operating_point(results, promise), operating_point(results, promise, oracle=True)
    if point["theta"].is_null().all():
        queries = calibration_queries(results)
        why = (
            f"{queries} threshold queries a head can promise no loss below {percent(1 / (queries + 1))}; longer or more "
            "threshold texts can."
            if _too_few(results, promise.target)
            else f"Their {queries} threshold queries would be enough, but they lose more at every theta of the grid."
        )
        return (
            f"**With thresholds calibrated for {promise}** nothing is "
            f"eliminated, for no threshold qualifies on any head. {why}"
        )
    loss = promise.achieved
    low, lossy = worst(point, ELIMINATION), worst(point, loss)
    text = (
        f"**With thresholds calibrated for {promise}** the mean "
        f"head eliminates {percent(mean(point, 'elimination'))} of its cold keys (exact scores would "
        f"allow {percent(mean(oracle, 'elimination'))}) at a measured {promise.risk} of "
        f"{percent(mean(point, loss.name))}. A step then reads {ratio(mean(point, 'bytes_ratio'))} of the full fp16 K "
        f"and V per head, and {ratio(mean(point, 'bytes_ratio_gqa'))} when the heads that share a KV "
        "head are united, which is what hardware would see. The head that eliminates least is "
        f"{head_name(low)} with {percent(low['elimination'])}; the one that loses most is "
        f"{head_name(lossy)} with a {promise.risk} of {percent(lossy[loss.name])}."
    )
    more = _price_of_fer(results, point) if promise.metric == "fer" else _better_rule(results, promise, point)
    return text + more


def _too_few(results: Results, target: float) -> bool:
    """Whether no threshold at all could promise a loss this small, whatever the keys are."""
    return 1 / (calibration_queries(results) + 1) > target


def _price_of_fer(results: Results, point: pl.DataFrame) -> str:
    at_risk = mean(
        point.filter(pl.col("fer_cold") > 0).with_columns(pl.col("fer") / pl.col("fer_cold")), "fer"
    )
    flatters = (
        ""
        if at_risk is None
        else (
            f" FER alone flatters: about {percent(at_risk, 0)} of the top {results.frontier['top_k']} keys "
            "are cold, the others are sinks or recent tokens and never at risk."
        )
    )
    text = (
        f"{flatters} Of the cold ones {percent(mean(point, 'fer_cold'))} are lost, and with all that was "
        f"eliminated goes {percent(mean(point, 'dropped_mass_mean'))} of the softmax mass"
    )
    if results.has_output:
        text += f", which changes a head's output by {percent(mean(point, 'output_error_mean'))}"
    return text + "."


def _better_rule(results: Results, promise: Promise, point: pl.DataFrame) -> str:
    """Which rule the same records serve best where mass counts, if it is another one."""
    rows = results.table("frontier.layer_head").filter(results.is_record, promise.rows)
    by_rule = rows.group_by("rule", maintain_order=True).agg(means("elimination", "bytes_ratio_gqa"))
    best = by_rule.sort("elimination", descending=True).row(0, named=True)
    if best["elimination"] - mean(point, "elimination") < _NOTABLE:
        return ""
    return (
        f" Where mass counts, the rule `{best['rule']}` serves the same records better: "
        f"{percent(best['elimination'])} eliminated at {ratio(best['bytes_ratio_gqa'])} of the bytes, "
        "GQA-true."
    )


def _sureness(results: Results) -> str:
    texts = results.held_out
    domains = texts["domain"].unique(maintain_order=True).to_list()
    queries = texts["queries"].unique().to_list()
    each = str(queries[0]) if len(queries) == 1 else f"{min(queries)} to {max(queries)}"
    return (
        f"**How sure is it?** {counted(results.heads, 'head')}, {counted(texts.height, 'held-out text')} of "
        f"{counted(len(domains), 'domain')} ({listed(domains)}), {each} queries per head and text at "
        f"positions from {results.frontier['headline_start']:,} on. Thresholds were chosen on other "
        "documents. Queries of one text resemble each other, so texts, not queries, are the sample: brackets "
        "hold 95 % intervals over texts, and *What so few texts cannot show* has what they would have missed. Nothing here "
        "is a proof; calibrated thresholds are statistics."
    )


def _limits(results: Results) -> str:
    tokens = results.config["capture"]["tokens"]
    return (
        f"**What it does not say.** One model, contexts of {tokens:,} tokens. Heads are judged one by one under teacher forcing, "
        "so the tables of this chapter are no quality of text. Bytes are counted by the traffic model of docs/methods.md and "
        "no time is saved by counting."
    )


def _in_the_loop(results: Results) -> list[str]:
    """What the model itself says at the bytes that the config allows; nothing where that stage was not run."""
    if not results.has("quality.summary"):
        return []
    row, held = role(results, "budget"), best_rival(results)
    if not row:
        return []
    text = (
        f"**The model itself**, decoding with one threshold for all heads, reads {ratio(row['bytes_ratio_gqa'])} of the full K "
        f"and V GQA-true; its first choice is then the dense model's at {percent(row['top1'])} of {row['positions']} positions, "
        f"with a KL of {tiny(row['kl'])} nats a token"
    )
    if held.get("kl_ratio") is not None:
        text += f", {factor(held['kl_ratio'])} below {family_name(held['against'])}, the strongest rival, at the same bytes"
        if held.get("kl_ratio_low") is not None:
            text += f" [{factor(held['kl_ratio_low'])}, {factor(held['kl_ratio_high'])}]"
    return [text + ". What it finds, and where it breaks, are chapters of their own."]


def _spread_table(results: Results, promise: Promise) -> Table:
    point, oracle = operating_point(results, promise), operating_point(results, promise, oracle=True)
    shown = ("mean", "median", "deviation", "worst", "oracle")
    data = pl.DataFrame(
        row | {name: FORMATS[row["format"]](row[name]) for name in shown}
        for row in spread(point, oracle).iter_rows(named=True)
    )
    return Table(
        f"spread_{promise.metric}",
        f"The {results.design} under rule `{results.headline['rule']}`, thresholds calibrated per head for "
        f"{promise}, measured on held-out texts. Mean, median and "
        f"standard deviation run over {point.height} heads; a p99 is that of the worst text. Exact scores: "
        "the oracle, calibrated by the same procedure; where it eliminates more it may also drop more mass.",
        data,
        {
            "metric": Column("Measured"),
            "mean": Column("Mean", "figure"),
            "median": Column("Median", "figure"),
            "deviation": Column("SD", "figure"),
            "worst": Column("Worst head", "figure"),
            "where": Column("which is"),
            "oracle": Column("Exact scores", "figure"),
        },
        sources=("frontier.layer_head",),
    )


def _domain_table(results: Results, promise: Promise) -> Table:
    worst_loss = pl.col(promise.achieved.name).max()
    columns = {
        "domain": Column("Domain"),
        "texts": Column("Texts", "integer", pl.col("text").n_unique()),
        "elimination": Column("Elimination", "percent"),
        "elimination_worst": Column("worst head", "percent", pl.col("elimination").min()),
        "fer": Column("FER", "percent"),
        "dropped_mass_mean": Column("Dropped mass", "percent"),
        "loss_worst": Column(f"{promise.risk}, worst head", "percent", worst_loss),
        "output_error_mean": Column("Output error", "percent"),
        "bytes_ratio": Column("Bytes ratio", "ratio"),
        "bytes_ratio_gqa": Column(BYTES_GQA.label.split(", ")[1], "ratio"),
    }
    if not results.has_output:
        del columns["output_error_mean"]
    return Table(
        f"domains_{promise.metric}",
        f"Each text domain alone, thresholds calibrated for {promise} "
        "on texts of all domains together. A worst head here is the worst on one text.",
        aggregated(points_by_text(results, promise), "domain", columns),
        columns,
        sources=("frontier.points",),
    )


CHAPTER = Chapter(
    "answer",
    "The answer",
    build,
    needs=("frontier.layer_head", "frontier.safe_points", "frontier.points"),
    front=("quality_bytes", "bytes_and_loss", "key_numbers"),
    quotes=tuple(
        f"frontier.{name}"
        for name in (
            "safe_head_share", "elimination_at_fer_1pct", "fer_at_fer_1pct", "bytes_ratio_at_fer_1pct",
            "bytes_ratio_gqa_at_fer_1pct", "elimination_at_dropped_mass_1pct", "bytes_ratio_gqa_at_dropped_mass_1pct",
        )
    )
    + tuple(f"quality.at_030.{name}" for name in ("bytes_ratio_gqa", "kl", "top1"))
    + ("quality.best_rival_kl_ratio",),
)  # fmt: skip
