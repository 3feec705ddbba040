"""Stage `historical`: the predecessor's experiment as it was, then with its faults put right one at a
time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl

from ghostkv import codecs
from ghostkv.captures.capture_files import LayerCapture, capture_metadata, read_layer
from ghostkv.codecs import Codec
from ghostkv.files import provenance
from ghostkv.files.errors import ConfigError, TextError
from ghostkv.files.io import read_table, stable_seed, write_table
from ghostkv.stages.historical.protocol import HISTORICAL, Constants, Protocol, at_thetas, follow, pool
from ghostkv.stages.historical.tables import (
    COMPARISON_SCHEMA,
    SWEEP_SCHEMA,
    Tally,
    ablation_rows,
    knob_rows,
    protocols,
)
from ghostkv.stages.historical.view import LayerView, gaussian_projection, see

# The lab's own codec, beside the random projections.
_FITTED = "transform_code"
_QUERIES_PER_PROMPT = 4
# 1,536 keys of three texts fit a frame of 64 dimensions as well as all 12,288, and the stage fits 90 of them.
_FIT_STRIDE = 8

# A text's layers, rebuilt from hidden states and as attention reads them.
Pairs = Mapping[int, tuple[LayerCapture, LayerCapture]]


def run(
    model_folder: str,
    texts_table: str,
    captures: Sequence[Mapping[str, str]],
    params: Mapping[str, Any],
    outputs: Mapping[str, str],
) -> None:
    """Measure the historical protocol, every knob alone, and all of them one after the other.

    Parameters
    ----------
    model_folder : str
        Folder of a fetched model: the short prompts, and one longer one, are run here.
    texts_table : str
        `texts.parquet`; prompts are cut from held-out texts.
    captures : sequence of mapping
        Every capture with `text`, `role` and `folder`; codecs are fitted on those of role `codec`, the long
        contexts are those of role `held_out`.
    params : mapping
        Config section `historical`; `layers`; `dtype` of section `model`; `code`.
    outputs : mapping
        Paths of `sweep` (the historical protocol at each theta, by head), `knobs` (each knob alone, from the
        historical and from the corrected protocol) and `ablation` (knobs put right one after the other).

    Raises
    ------
    ConfigError, ModelError, TextError, TableError
    """
    held_out = [entry for entry in captures if entry["role"] == "held_out"]
    calibration = [entry for entry in captures if entry["role"] == "codec"]
    if not held_out or not calibration:
        raise ConfigError(
            "config: the stage historical needs a text of role codec and one of role held_out.\n"
            "  Write: per_role: {codec: 1, threshold: 1, held_out: 1}   under texts"
        )
    constants = Constants(
        params["dimensions"][0], *(params[key] for key in ("epsilon", "sigma", "top_k", "sinks", "hot"))
    )
    prompts, passage = _run_model(model_folder, texts_table, [entry["text"] for entry in held_out], params)
    thetas = np.linspace(params["thetas"]["start"], params["thetas"]["stop"], params["thetas"]["count"])
    tallies = {protocol: Tally(params["fer"], params["elimination"], thetas) for protocol in protocols()}
    sweep: list[pl.DataFrame] = []
    for layer in params["layers"]:
        texts = _LayerTexts(layer, prompts, passage, calibration, held_out, params)
        for protocol, tally in tallies.items():
            views = texts.views(protocol)
            codec = _FITTED if protocol.fitted_codec else _gaussian(constants.dims)
            outcome = pool([follow(view, protocol, constants, codec) for view in views])
            tally.add(protocol, outcome, views, texts.agreement(protocol))
        sweep += _sweep_layer(layer, texts.views(HISTORICAL), constants, params["dimensions"], thetas)
        print(f"layer {layer}: {len(tallies)} protocols", flush=True)
    metadata = _metadata(held_out[0]["folder"], params)
    rows = {protocol: tally.row() for protocol, tally in tallies.items()}
    write_table(pl.concat(sweep), outputs["sweep"], SWEEP_SCHEMA, metadata)
    for name, table in (("knobs", knob_rows(rows)), ("ablation", ablation_rows(rows))):
        frame = pl.DataFrame(table, infer_schema_length=None)
        write_table(frame, outputs[name], COMPARISON_SCHEMA, metadata)


class _LayerTexts:
    """The views of one layer that protocols choose from: short or long, rebuilt or true."""

    def __init__(
        self,
        layer: int,
        prompts: Sequence[Pairs],
        passage: Pairs,
        calibration: Sequence[Mapping[str, str]],
        held_out: Sequence[Mapping[str, str]],
        params: Mapping[str, Any],
    ):
        self._layer, self._top_k = layer, params["top_k"]
        self._prompts = [prompt[layer] for prompt in prompts]
        fitted = {_FITTED: _fit([read_layer(entry["folder"], layer) for entry in calibration], layer, params)}
        rebuilt, true = zip(*self._prompts, strict=True)
        projections = _projections(params, rebuilt[0].keys.shape[2])
        first = {_gaussian(params["dimensions"][0]): projections[_gaussian(params["dimensions"][0])]}
        long = [_thinned(read_layer(entry["folder"], layer), params["long_queries"]) for entry in held_out]
        self._views = {
            (False, False): [see(capture, projections, fitted) for capture in rebuilt],
            (True, False): [see(capture, first, fitted) for capture in true],
            (False, True): [see(passage[layer][0], first, fitted)],
            (True, True): [see(capture, first, fitted) for capture in long],
        }

    def views(self, protocol: Protocol) -> list[LayerView]:
        return self._views[protocol.true_qk, protocol.long_context]

    def agreement(self, protocol: Protocol) -> float:
        """Share of the keys called relevant that are relevant to the model: 1 where queries and keys are its
        own."""
        if protocol.true_qk:
            return 1.0
        # Only the short prompts were seen both ways by the same queries.
        shares = []
        for ours, own in zip(self._views[False, False], self._views[True, False], strict=True):
            a, b = ours.top(self._top_k), own.top(self._top_k)
            shares.append((a[..., None] == b[..., None, :]).any(-1).mean())
        return float(np.mean(shares))


def _run_model(
    model_folder: str, texts_table: str, names: Sequence[str], params: Mapping[str, Any]
) -> tuple[list[Pairs], Pairs]:
    """Run the short prompts and one passage; queries are the last of each prompt and the second half of the
    passage."""
    from ghostkv.models.load import load_model, load_tokenizer
    from ghostkv.models.rebuild import rebuilt_and_true

    tokenizer = load_tokenizer(model_folder)
    rows = {row["text"]: row["content"] for row in read_table(texts_table).iter_rows(named=True)}
    ids = {name: tokenizer(rows[name], verbose=False)["input_ids"] for name in names}
    model = load_model(model_folder, params.get("dtype", "float32"), params.get("threads", 1))
    prompts = []
    for prompt in cut_prompts(ids, params["prompt_tokens"], params["prompts"]):
        last = np.arange(len(prompt) - _QUERIES_PER_PROMPT, len(prompt))
        prompts.append(rebuilt_and_true(model, prompt, last, params["layers"]))
    passage = ids[names[0]][: params["passage_tokens"]]
    queries = _spread(np.arange(len(passage) // 2, len(passage)), params["long_queries"])
    return prompts, rebuilt_and_true(model, passage, queries, params["layers"])


def cut_prompts(ids: Mapping[str, Sequence[int]], lengths: Sequence[int], count: int) -> Iterator[list[int]]:
    """Short prompts out of texts: texts and lengths in turns, spread over each text.

    Raises
    ------
    TextError
        A text is shorter than the prompts to be cut from it.
    """
    names = sorted(ids)
    for number in range(count):
        name, length = names[number % len(names)], lengths[number % len(lengths)]
        round_, rounds = number // len(names), -(-count // len(names))
        room = len(ids[name]) - length
        if room < 0 or length <= _QUERIES_PER_PROMPT:
            raise TextError(
                f"text {name!r} has {len(ids[name])} tokens, historical.prompt_tokens asks for prompts of "
                f"{length}. Accepted: more "
                f"than {_QUERIES_PER_PROMPT} tokens and no more than the text.\n  Write: prompt_tokens: [54, "
                "60, 66, 73]"
            )
        start = room * (2 * round_ + 1) // (2 * rounds)
        yield list(ids[name][start : start + length])


def _fit(calibration: Sequence[LayerCapture], layer: int, params: Mapping[str, Any]) -> list[Codec]:
    """The lab's own codec for each KV head, at as many bytes as the projection has rows."""
    fitted = []
    for kv_head in range(calibration[0].kv_heads):
        keys = np.concatenate([capture.keys[kv_head, ::_FIT_STRIDE] for capture in calibration])
        queries = np.concatenate(
            [capture.group_queries(kv_head).reshape(-1, keys.shape[1]) for capture in calibration]
        )
        codec = codecs.make(_FITTED, params["dimensions"][0], stable_seed(params["seed"], layer, kv_head))
        fitted.append(codec.fit(keys, queries))
    return fitted


def _sweep_layer(
    layer: int, views: list[LayerView], constants: Constants, dimensions: Sequence[int], thetas: np.ndarray
) -> list[pl.DataFrame]:
    """The historical protocol at each theta and number of rows, by head."""
    frames = []
    for dims in dimensions:
        outcome = pool(
            [follow(view, HISTORICAL, replace(constants, dims=dims), _gaussian(dims)) for view in views]
        )
        elimination, fer = at_thetas(outcome, thetas)
        heads, count = elimination.shape
        frames.append(
            pl.DataFrame(
                {
                    "layer": np.full(heads * count, layer),
                    "head": np.repeat(np.arange(heads), count),
                    "sketch_dim": np.full(heads * count, dims),
                    "theta": np.tile(thetas, heads),
                    "elimination": elimination.ravel(),
                    "fer": fer.ravel(),
                    "violation_rate": np.repeat(outcome.violations / outcome.cold.shape[1], count),
                    "queries": np.full(heads * count, sum(len(view.positions) for view in views)),
                }
            )
        )
    return frames


def _thinned(capture: LayerCapture, queries: int) -> LayerCapture:
    """A capture with a few queries of the second half of its context, and no values."""
    late = np.flatnonzero(capture.positions >= capture.tokens // 2)
    index = _spread(late if len(late) else np.arange(len(capture.positions)), queries)
    return replace(
        capture,
        values=None,
        outputs=None,
        queries=capture.queries[:, index],
        positions=capture.positions[index],
    )


def _spread(items: np.ndarray, count: int) -> np.ndarray:
    """At most `count` of the items, evenly spread, the last among them."""
    return items[np.unique(np.linspace(0, len(items) - 1, min(count, len(items))).round().astype(int))]


def _projections(params: Mapping[str, Any], width: int) -> dict[str, np.ndarray]:
    return {
        _gaussian(dims): gaussian_projection(dims, width, stable_seed(params["seed"], dims))
        for dims in params["dimensions"]
    }


def _gaussian(dims: int) -> str:
    return f"gaussian_{dims}"


def _metadata(folder: str, params: Mapping[str, Any]) -> dict[str, str]:
    found = capture_metadata(folder)
    return provenance.metadata(
        params.get("code"), **{key: found.get(key) for key in ("model", "weight_sha256")}
    )
