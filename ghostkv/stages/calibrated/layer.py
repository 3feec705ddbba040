"""Calibrated: thresholds with a stated risk, on one layer after another, and what they achieve on held-out text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ghostkv.captures.capture_files import LayerCapture, read_layer
from ghostkv.captures.captured_texts import CapturedText, from_position, measured_texts, sketch_metadata
from ghostkv.codecs import Codec, Records
from ghostkv.codecs.fitting import fit_codecs
from ghostkv.codecs.learned import Learned
from ghostkv.codecs.records import CodecSpec, load_codecs, read_records, specs
from ghostkv.elimination.frontier import Design, Setting, _setting, view_group
from ghostkv.files.io import stable_seed
from ghostkv.files.tables import Tables
from ghostkv.stages.calibrated.group import CalibratedGroup
from ghostkv.stages.calibrated.tables import (
    LAYER_SCHEMAS,
)


def calibrate_layer(
    captures: Sequence[Mapping[str, str]],
    sketch: Mapping[str, str],
    layer: int,
    params: Mapping,
    outputs: Mapping[str, str],
) -> None:
    """Calibrate every design of one layer on threshold texts and measure it on held-out texts.

    Parameters
    ----------
    captures : sequence of mapping
        Every capture with `text`, `domain`, `role` and `folder`.
    sketch : mapping
        Paths of the layer's `codecs` and `records`.
    layer : int
    params : mapping
        The config section `calibrated`; `frontier`; `codecs` and `seed` of sketch; and `code`.
    outputs : mapping
        Paths of `calibrated`, `bands`, `cross_domain`, `texts` and `learned`.

    Raises
    ------
    ConfigError
        No text has the role `threshold` or `held_out`, or no query lies at or beyond `headline_start`.
    """
    texts = [CapturedText(**entry) for entry in captures]
    frontier = params["frontier"]
    sizes = _sizes(params)
    measured = measured_texts(texts)
    loaded = {text: read_layer(text.folder, layer) for text in measured}
    fitted, records = _codecs(texts, loaded, sketch, sizes, layer, params)
    late = {
        text: from_position(capture, text, frontier["headline_start"]) for text, capture in loaded.items()
    }
    learned = _train(texts, layer, fitted, sizes[0], params)
    tables, setting = Tables(LAYER_SCHEMAS), _refined(params)
    for kv_head in range(loaded[measured[0]].kv_heads):
        views = {text: view_group(capture, kv_head, setting, True) for text, capture in late.items()}
        group = CalibratedGroup(tables, layer, kv_head, views, loaded, setting, params)
        for spec in sizes:
            design = Design(spec.name, spec.code_bytes, fitted[spec, kv_head])
            group.measure(design, {text: records[text, spec][kv_head] for text in measured}, spec == sizes[0])
        if learned:
            group.compare(fitted[sizes[0], kv_head], *learned[kv_head])
        print(f"layer {layer}: KV head {kv_head} calibrated", flush=True)
    tables.write(outputs, sketch_metadata(texts, params.get("code", "")))


def _sizes(params: Mapping) -> list[CodecSpec]:
    """The headline design, then the other sizes of its codec."""
    headline = params["frontier"]["headline"]
    others = [size for size in params["bytes"] if size != headline["bytes"]]
    return [CodecSpec(headline["codec"], size) for size in (headline["bytes"], *others)]


def _codecs(
    texts: Sequence[CapturedText],
    loaded: Mapping[CapturedText, LayerCapture],
    sketch: Mapping[str, str],
    sizes: Sequence[CodecSpec],
    layer: int,
    params: Mapping,
) -> tuple[dict[tuple[CodecSpec, int], Codec], dict[tuple[CapturedText, CodecSpec], list[Records]]]:
    """Codecs and records of every size: those of sketch, and those that it has not made, fitted likewise."""
    made = [spec for spec in sizes if spec in specs(params["codecs"])]
    fitted = load_codecs(sketch["codecs"], made)
    records = {
        (text, spec): found
        for text in loaded
        for spec, found in read_records(sketch["records"], text.text, made).items()
    }
    missing = [spec for spec in sizes if spec not in made]
    if missing:
        fitting = [read_layer(text.folder, layer) for text in texts if text.role == "codec"]
        fitted |= fit_codecs(fitting, missing, layer, params["seed"])
        for text, capture in loaded.items():
            for spec in missing:
                heads = range(capture.kv_heads)
                records[text, spec] = [fitted[spec, head].encode(capture.keys[head]) for head in heads]
    return fitted, records


def _refined(params: Mapping) -> Setting:
    """The frontier's setting on finer grids, for its headline rule and those of `calibrated.rules` that it has on.

    A threshold that falls between two thetas eliminates what the lower one does: the step is bytes given away.
    """
    frontier = params["frontier"]
    wanted = {frontier["headline"]["rule"], *params["rules"]}
    rules = {
        rule: grid | {"count": (grid["count"] - 1) * params["refine"] + 1}
        for rule, grid in frontier["rules"].items()
        if grid is not None and rule in wanted
    }
    return _setting({**frontier, "rules": rules})


def _train(
    texts: Sequence[CapturedText],
    layer: int,
    fitted: Mapping[tuple[CodecSpec, int], Codec],
    spec: CodecSpec,
    params: Mapping,
) -> list[tuple[Codec, np.ndarray]] | None:
    """The learned codec of each KV head and its training losses; None on layers that are not trained."""
    learned = params["learned"]
    if not learned["every"] or layer % learned["every"]:
        return None
    captures = [read_layer(text.folder, layer) for text in texts if text.role == "codec"]
    return [_train_head(captures, head, fitted[spec, head], params) for head in range(captures[0].kv_heads)]


def _train_head(
    captures: Sequence[LayerCapture], kv_head: int, codec: Codec, params: Mapping
) -> tuple[Codec, np.ndarray]:
    # Torch takes as long to import as a layer takes to measure, so only layers that train pay for it.
    from ghostkv.models.learned_frame import train_frame, training_text

    learned, frontier = params["learned"], params["frontier"]
    seed = stable_seed(learned["seed"], captures[0].layer, kv_head) % 2**32
    exact = (frontier["sinks"], frontier["hot"], frontier["top_k"])
    seen = [training_text(capture, kv_head, codec, exact, seed) for capture in captures]
    trained = train_frame(
        [text for text in seen if text is not None], codec, learned["steps"], learned["rate"],
        learned["lost"], (learned["queries"], learned["keys"]), seed,
    )  # fmt: skip
    keys = np.concatenate([capture.keys[kv_head].astype(np.float64) for capture in captures])
    queries = np.concatenate(
        [capture.group_queries(kv_head).reshape(-1, keys.shape[1]).astype(np.float64) for capture in captures]
    )
    return Learned(codec.code_bytes, frame=trained.frame).fit(keys, queries), trained.losses
