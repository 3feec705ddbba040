"""Stage `capture`: what was recorded, and the proof that it is what the model computed."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from ghostkv.report.document import Block, Chapter, Column, Prose, Table, aggregated, figures
from ghostkv.report.numbers import counted, percent, tiny
from ghostkv.report.results import Results


def build(results: Results) -> Sequence[Block]:
    """The proof in words, then every capture."""
    return [Prose(_reading(results)), _table(results)]


def _reading(results: Results) -> str:
    layers = results.table("capture.layers")
    proven = layers.filter(pl.col("recomputed") > 0)
    kinds = layers.group_by("kind", maintain_order=True).agg(pl.col("layer").n_unique())
    kinds_text = " and ".join(f"{count} {kind}" for kind, count in kinds.iter_rows())
    text = f"{counted(layers['text'].n_unique(), 'capture')} of {layers['layer'].n_unique()} layers ({kinds_text})."
    if proven.is_empty():
        return (
            text + " These tensors came from outside, without the model's outputs, so nothing here could be "
            "proved."
        )
    tolerance = results.config["capture"]["tolerance"]
    worst, unexplained = (proven[f"{name}_relative_error"].max() for name in ("max", "unexplained"))
    verdict = "within" if unexplained <= tolerance else "**above**"
    dtype = results.config["model"]["dtype"]
    # Rounding in float32 explains nothing that a reader would see.
    beyond = "" if dtype == "float32" else f", {tiny(unexplained)} of it not explained by rounding in {dtype}"
    text += (
        " Attention was recomputed from each file, float16 K and V as stored, and compared with what the "
        f"model itself produced: {proven['recomputed'].sum():,} outputs of single heads, worst relative "
        f"error {tiny(worst)}{beyond}, {verdict} the tolerance of {tiny(tolerance)}."
    )
    storage = proven["storage_relative_error"].max()
    if results.config["capture"]["cache_dtype"] == "float16":
        text += (
            "\n\nThe model ran with a float16 KV cache, as servers do, so files hold exactly what attention "
            f"read; the rounding by itself moves an output by at most {percent(storage)}."
        )
    else:
        text += f"\n\nRounding K and V to float16 for the file moves an output by at most {percent(storage)}."
    return text


def _table(results: Results) -> Table:
    worst = pl.col("max_relative_error").max()
    within = pl.col("unexplained_relative_error").max() <= results.config["capture"]["tolerance"]
    columns = {
        "text": Column("Text"),
        "layers": Column("Layers", "integer", pl.len()),
        "tokens": Column("Tokens", "integer", pl.col("tokens").max()),
        "recomputed": Column("Outputs compared", "integer", pl.col("recomputed").sum()),
        "mean_relative_error": Column("Mean error", "tiny"),
        "max_relative_error": Column("Worst error", "tiny", worst),
        "within": Column("Within tolerance", "yes_no", pl.when(pl.col("recomputed").sum() > 0).then(within)),
    }
    return Table(
        "captures",
        "Every capture. Error: of one head's output at one query, relative to its norm.",
        aggregated(results.table("capture.layers"), "text", columns),
        columns,
    )


CHAPTER = Chapter(
    "capture",
    "Captures",
    build,
    front=(),
    needs=("capture.layers",),
    headline=(
        *figures(
            "capture.layers",
            "self WHERE recomputed > 0",
            {"capture.max_relative_error": ("relative to the output's norm", "max(max_relative_error)")},
            "count(DISTINCT text)",
        ),
        *figures(
            "benchmark.capture_overhead",
            "self",
            {"capture.overhead_ratio": ("capture seconds / plain forward seconds", "median(ratio)")},
        ),
    ),
)
