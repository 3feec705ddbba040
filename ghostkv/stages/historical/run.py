"""Stage `historical`: the predecessor's experiment as it was, then with its faults put right one at a
time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ghostkv.captures.capture_files import LayerCapture, capture_metadata, read_layer
from ghostkv.captures.captured_texts import CapturedText
from ghostkv.codecs import Codec
from ghostkv.codecs.transform_code import TransformCode
from ghostkv.files import provenance
from ghostkv.files.errors import ConfigError, TextError
from ghostkv.files.io import stable_seed
from ghostkv.files.progress import progress
from ghostkv.files.tables import Tables
from ghostkv.sources.texts import read_texts
from ghostkv.stages.historical.protocol import HISTORICAL, Constants, Protocol, at_thetas, follow, pool
from ghostkv.stages.historical.schemas import SCHEMAS
from ghostkv.stages.historical.tables import Tally, ablation_rows, knob_rows, protocols
from ghostkv.stages.historical.view import LayerView, gaussian_projection, see

if TYPE_CHECKING:
    from ghostkv.stages.historical.jobs import HistoricalRun

# The lab's own codec, beside the random projections.
_FITTED = TransformCode.name
_QUERIES_PER_PROMPT = 4
# 1,536 keys of three texts fit a frame of 64 dimensions as well as all 12,288, and the stage fits 90 of them.
_FIT_STRIDE = 8

# A text's layers, rebuilt from hidden states and as attention reads them.
Pairs = Mapping[int, tuple[LayerCapture, LayerCapture]]


def run(job: HistoricalRun, inputs: Mapping[str, str], outputs: Mapping[str, str], threads: int = 1) -> None:
    """Measure the historical protocol, every knob alone, and all of them one after the other.

    Codecs are fitted on captures of role `codec`, the long contexts are those of role `held_out`. The fetched model
    runs the short prompts and one longer one, which are cut from `texts`. Outputs are `sweep` (the historical
    protocol at each theta, by head), `knobs` (each knob alone, from the historical and from the corrected protocol)
    and `ablation` (knobs put right one after the other).
    """
    held_out = [text for text in job.captures if text.role == "held_out"]
    calibration = [text for text in job.captures if text.role == "codec"]
    if not held_out or not calibration:
        raise ConfigError(
            "config: the stage historical needs a text of role codec and one of role held_out.\n"
            "  Write: per_role: {codec: 1, threshold: 1, held_out: 1}   under texts"
        )
    constants = Constants(job.dimensions[0], job.epsilon, job.sigma, job.top_k, job.sinks, job.hot)
    prompts, passage = _run_model(inputs, [text.text for text in held_out], job, threads)
    thetas = np.linspace(job.thetas.start, job.thetas.stop, job.thetas.count)
    tallies = {protocol: Tally(job.fer, job.elimination, thetas) for protocol in protocols()}
    tables = Tables(SCHEMAS)
    for layer in progress(job.layers, desc="layers", unit="layer"):
        texts = _LayerTexts(layer, prompts, passage, calibration, held_out, job)
        for protocol, tally in tallies.items():
            views = texts.views(protocol)
            codec = _FITTED if protocol.fitted_codec else _gaussian(constants.dims)
            outcome = pool([follow(view, protocol, constants, codec) for view in views])
            tally.add(protocol, outcome, views, texts.agreement(protocol))
        _add_sweep(tables, layer, texts.views(HISTORICAL), constants, job.dimensions, thetas)
        print(f"layer {layer}: {len(tallies)} protocols", flush=True)
    rows = {protocol: tally.row() for protocol, tally in tallies.items()}
    tables.add_rows("knobs", knob_rows(rows))
    tables.add_rows("ablation", ablation_rows(rows))
    tables.write(outputs, _metadata(held_out[0], job))


class _LayerTexts:
    """The views of one layer that protocols choose from: short or long, rebuilt or true."""

    def __init__(
        self,
        layer: int,
        prompts: Sequence[Pairs],
        passage: Pairs,
        calibration: Sequence[CapturedText],
        held_out: Sequence[CapturedText],
        job: HistoricalRun,
    ):
        self._layer, self._top_k = layer, job.top_k
        self._prompts = [prompt[layer] for prompt in prompts]
        fitted = {_FITTED: _fit([read_layer(text.folder, layer) for text in calibration], layer, job)}
        rebuilt, true = zip(*self._prompts, strict=True)
        projections = _projections(job, rebuilt[0].keys.shape[2])
        first = {_gaussian(job.dimensions[0]): projections[_gaussian(job.dimensions[0])]}
        long = [_thinned(read_layer(text.folder, layer), job.long_queries) for text in held_out]
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
    inputs: Mapping[str, str], names: Sequence[str], job: HistoricalRun, threads: int
) -> tuple[list[Pairs], Pairs]:
    """Run the short prompts and one passage; queries are the last of each prompt and the second half of the
    passage."""
    from ghostkv.models.load import load_model
    from ghostkv.models.rebuild import rebuilt_and_true
    from ghostkv.models.tokenizer import load_tokenizer

    model_folder = str(Path(inputs["manifest"]).parent)
    tokenizer = load_tokenizer(model_folder)
    rows = {row["text"]: row["content"] for row in read_texts(inputs["texts"]).iter_rows(named=True)}
    ids = {name: tokenizer.encode(rows[name]) for name in names}
    model = load_model(model_folder, job.dtype, threads, job.device)
    prompts = []
    for prompt in cut_prompts(ids, job.prompt_tokens, job.prompts, tokenizer.start):
        last = np.arange(len(prompt) - _QUERIES_PER_PROMPT, len(prompt))
        prompts.append(rebuilt_and_true(model, prompt, last, job.layers))
    passage = [*tokenizer.start, *ids[names[0]]][: job.passage_tokens]
    queries = _spread(np.arange(len(passage) // 2, len(passage)), job.long_queries)
    return prompts, rebuilt_and_true(model, passage, queries, job.layers)


def cut_prompts(
    ids: Mapping[str, Sequence[int]], lengths: Sequence[int], count: int, start: Sequence[int] = ()
) -> Iterator[list[int]]:
    """Short prompts out of texts: texts and lengths in turns, spread over each text, `start` at the head of each.

    Raises TextError where a text is shorter than the prompts to be cut from it.
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
        place = room * (2 * round_ + 1) // (2 * rounds)
        yield [*start, *ids[name][place : place + length - len(start)]]


def _fit(calibration: Sequence[LayerCapture], layer: int, job: HistoricalRun) -> list[Codec]:
    """The lab's own codec for each KV head, at as many bytes as the projection has rows."""
    fitted = []
    for kv_head in range(calibration[0].kv_heads):
        keys = np.concatenate([capture.keys[kv_head, ::_FIT_STRIDE] for capture in calibration])
        queries = np.concatenate(
            [capture.group_queries(kv_head).reshape(-1, keys.shape[1]) for capture in calibration]
        )
        codec = TransformCode(job.dimensions[0], stable_seed(job.seed, layer, kv_head))
        fitted.append(codec.fit(keys, queries))
    return fitted


def _add_sweep(
    tables: Tables,
    layer: int,
    views: list[LayerView],
    constants: Constants,
    dimensions: Sequence[int],
    thetas: np.ndarray,
) -> None:
    """The historical protocol at each theta and number of rows, by head."""
    for dims in dimensions:
        outcome = pool(
            [follow(view, HISTORICAL, replace(constants, dims=dims), _gaussian(dims)) for view in views]
        )
        elimination, fer = at_thetas(outcome, thetas)
        heads, count = elimination.shape
        keys = {"layer": layer, "sketch_dim": dims, "queries": sum(len(view.positions) for view in views)}
        columns = {
            "head": np.repeat(np.arange(heads), count),
            "theta": np.tile(thetas, heads),
            "elimination": elimination,
            "fer": fer,
            "violation_rate": np.repeat(outcome.violations / outcome.cold.shape[1], count),
        }
        tables.add("sweep", keys, columns)


def _thinned(capture: LayerCapture, queries: int) -> LayerCapture:
    """A capture with a few queries of the second half of its context, and no values."""
    late = np.flatnonzero(capture.positions >= capture.tokens // 2)
    index = _spread(late if len(late) else np.arange(len(capture.positions)), queries)
    return replace(capture.at(index), values=None, outputs=None)


def _spread(items: np.ndarray, count: int) -> np.ndarray:
    """At most `count` of the items, evenly spread, the last among them."""
    return items[np.unique(np.linspace(0, len(items) - 1, min(count, len(items))).round().astype(int))]


def _projections(job: HistoricalRun, width: int) -> dict[str, np.ndarray]:
    return {
        _gaussian(dims): gaussian_projection(dims, width, stable_seed(job.seed, dims))
        for dims in job.dimensions
    }


def _gaussian(dims: int) -> str:
    return f"gaussian_{dims}"


def _metadata(text: CapturedText, job: HistoricalRun) -> dict[str, str]:
    found = capture_metadata(text.folder)
    return provenance.metadata(job.code, **{key: found.get(key) for key in ("model", "weight_sha256")})
