"""The frontier of arrays: queries, keys and values that somebody has, without a model or a results folder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import altair as alt
import numpy as np
import polars as pl

from ghostkv.captures.capture_files import LayerCapture
from ghostkv.codecs import by_name
from ghostkv.codecs.sizes import code_bytes
from ghostkv.config.experiment import load_config
from ghostkv.elimination.frontier import Design, Setting, estimate_group, sweep_rule, view_group
from ghostkv.elimination.summaries import sweep_columns
from ghostkv.files.errors import CaptureError
from ghostkv.files.io import stable_seed
from ghostkv.report.charts import above_floor, curves, fer_axis, quantity
from ghostkv.report.results import ORACLE, words


def frontier(
    queries: np.ndarray,
    keys: np.ndarray,
    values: np.ndarray | None = None,
    *,
    positions: np.ndarray | None = None,
    scale: float | None = None,
    window: int = 0,
    softcap: float = 0.0,
    config: Mapping[str, Any] | None = None,
) -> tuple[pl.DataFrame, alt.Chart]:
    """Sweep the headline's codec and rule over one layer of attention.

    The codec is fitted on the first half of the keys and on every other query; all other queries are measured, over all
    keys that they see.

    Parameters
    ----------
    queries : ndarray, shape [heads, queries, head_dim]
        As attention uses them: after norms and RoPE.
    keys, values : ndarray, shapes [kv_heads, tokens, head_dim] and [kv_heads, tokens, value_dim]
        The cache. Without values no output error is known, and bytes ratios count keys alone.
    positions : ndarray of int, shape [queries], optional
        Token index of each query, ascending; else the last tokens.
    scale : float, optional
        Factor of the score; else ``1 / sqrt(head_dim)``.
    window : int
        Tokens of a sliding window; 0 for none.
    softcap : float
        The logit soft cap; 0 for none.
    config : mapping, optional
        Sections of a config that differ from the default: `{"frontier": {"top_k": 8}}`.

    Returns
    -------
    DataFrame
        A row a head, codec and theta: `elimination`, `fer`, `dropped_mass_mean`, `output_error_mean`, `bytes_ratio`,
        `bytes_ratio_gqa` and more. The codec `exact` is the oracle, which knows the scores.
    Chart
        Elimination against false elimination rate, mean over heads.

    Raises
    ------
    CaptureError
        Shapes do not fit each other, values are not finite, or no query sees cold keys.
    """
    capture = _capture(queries, keys, values, positions, scale, window, softcap)
    chosen = load_config(dict(config or {})).frontier
    rule = chosen.headline.rule
    setting = Setting.of(chosen.sinks, chosen.hot, chosen.top_k, {rule: chosen.grids()[rule]})
    turn = np.arange(len(capture.positions))
    fitting = capture.at(turn % 2 == 0, capture.tokens // 2)
    cold = capture.positions - capture.first_visible() >= chosen.sinks + chosen.hot
    measured = (turn % 2 == 1) & cold
    if not measured.any():
        raise CaptureError(
            f"frontier: of {len(turn)} queries none that is measured sees more than the {chosen.sinks + chosen.hot} keys that "
            'are always read. Accepted: queries further on.\n  Write: config={"frontier": {"hot": 8}}'
        )
    tables = [
        _sweep(capture.at(measured), fitting, head, setting, chosen) for head in range(capture.kv_heads)
    ]
    table = pl.concat(tables).sort("codec", "head", "theta", maintain_order=True)
    return table, _chart(table)


def _array(given: Any, name: str) -> np.ndarray:
    """An array, also of a tensor of torch."""
    if hasattr(given, "detach"):
        # NumPy knows no bfloat16, and a tensor no way out of a graph.
        given = given.detach().cpu()
        given = given if given.is_complex() else given.float()
    try:
        found = np.asarray(given)
        if found.dtype.kind not in "fiub":
            raise TypeError(f"of {found.dtype}")
        return found
    except (TypeError, ValueError) as error:
        raise CaptureError(
            f"frontier: {name} are no array of real numbers ({error}). Accepted: arrays and tensors of floats.\n"
            f"  Write: {name}=np.asarray(..., np.float32)"
        ) from None


def _capture(queries, keys, values, positions, scale, window, softcap) -> LayerCapture:
    queries, keys = _array(queries, "queries").astype(np.float32), _array(keys, "keys")
    values = None if values is None else _array(values, "values")
    shapes = f"queries {queries.shape}, keys {keys.shape}" + (
        "" if values is None else f", values {values.shape}"
    )
    fits = (
        queries.ndim == keys.ndim == 3
        and queries.shape[2] == keys.shape[2]
        and not queries.shape[0] % keys.shape[0]
    )
    if not fits or (values is not None and (values.ndim != 3 or values.shape[:2] != keys.shape[:2])):
        raise CaptureError(
            f"frontier: {shapes}. Accepted: queries [heads, queries, head_dim], keys [kv_heads, tokens, head_dim] and values "
            "[kv_heads, tokens, value_dim], heads a multiple of kv_heads.\n  Write: keys[None] for a single KV head"
        )
    count, tokens = queries.shape[1], keys.shape[1]
    positions = np.arange(tokens - count, tokens) if positions is None else np.asarray(positions)
    if (
        not count
        or positions.shape != (count,)
        or (np.diff(positions) <= 0).any()
        or positions[0] < 0
        or positions[-1] >= tokens
    ):
        raise CaptureError(
            f"frontier: positions of {count} queries over {tokens} keys. Accepted: one token index a query, ascending, from 0 "
            f"to {tokens - 1}.\n  Write: positions=np.arange({max(tokens - count, 0)}, {tokens})"
        )
    capture = LayerCapture(
        0, keys, values, queries, None, positions.astype(np.int32),
        float(queries.shape[2] ** -0.5 if scale is None else scale), int(window), float(softcap),
    )  # fmt: skip
    capture.refuse_unfit("frontier")
    return capture


def _sweep(
    capture: LayerCapture, fitting: LayerCapture, kv_head: int, setting: Setting, chosen
) -> pl.DataFrame:
    headline, rule = chosen.headline, chosen.headline.rule
    size = code_bytes(headline.bits, capture.keys.shape[2])
    codec = by_name.make(headline.codec, size, stable_seed(0, kv_head, headline.codec))
    codec.fit(fitting.keys[kv_head], fitting.group_queries(kv_head).reshape(-1, capture.keys.shape[2]))
    view = view_group(capture, kv_head, setting, with_output=True)
    frames = []
    for design, records in (
        (Design(ORACLE, 0, None), None),
        (Design(headline.codec, size, codec), codec.encode(capture.keys[kv_head])),
    ):
        swept = sweep_rule(view, estimate_group(view, design, records), rule, setting)
        columns = sweep_columns(view, swept, design, slice(None))
        thetas, heads = setting.grids[rule].theta, np.arange(capture.group) + kv_head * capture.group
        about = {
            "head": np.repeat(heads, len(thetas)), "kv_head": kv_head, "codec": design.name,
            "code_bytes": design.code_bytes, "rule": rule, "theta": np.tile(thetas, len(heads)),
            "queries": len(capture.positions),
        }  # fmt: skip
        frames.append(pl.DataFrame(about | {name: np.ravel(values) for name, values in columns.items()}))
    return pl.concat(frames)


def _chart(table: pl.DataFrame) -> alt.Chart:
    mean = table.group_by("codec", "theta").agg(pl.col("fer", "elimination").mean()).sort("codec", "theta")
    mean = above_floor(
        mean.with_columns(pl.col("codec").map_elements(words, pl.String).alias("label")), "codec"
    )
    y = quantity("elimination", "Elimination (share of cold keys)", alt.Y, percent=True, domain=[0, 1])
    names = mean["codec"].unique(maintain_order=True).to_list()
    return curves(mean, fer_axis(), y, names, width=520, height=320, legend=True)
