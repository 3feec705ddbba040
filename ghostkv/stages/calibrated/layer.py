"""Calibrated: thresholds with a stated risk, on one layer after another, and what they achieve on held-out text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ghostkv.captures.capture_files import LayerCapture, read_layer
from ghostkv.captures.captured_texts import CapturedText, from_position, measured_texts, sketch_metadata
from ghostkv.codecs import Codec, Records
from ghostkv.codecs.fitting import fit_codecs
from ghostkv.codecs.learned import Learned
from ghostkv.codecs.records import CodecSpec, load_codecs, read_records
from ghostkv.elimination.frontier import Design, Setting
from ghostkv.elimination.text_view import TextView
from ghostkv.files.io import stable_seed
from ghostkv.files.progress import progress
from ghostkv.files.tables import Tables
from ghostkv.stages.calibrated.group import CalibratedGroup
from ghostkv.stages.calibrated.schemas import LAYER_SCHEMAS

if TYPE_CHECKING:
    from ghostkv.stages.calibrated.jobs import CalibrateLayer


def calibrate_layer(job: CalibrateLayer, inputs: Mapping[str, str], outputs: Mapping[str, str]) -> None:
    """Calibrate every design of one layer on threshold texts and measure it on held-out texts.

    Raises
    ------
    ConfigError
        No text has the role `threshold` or `held_out`, or no query lies at or beyond `headline_start`.
    """
    measured = measured_texts(job.captures)
    loaded = {text: read_layer(text.folder, job.layer) for text in measured}
    fitted, records = _codecs(job, loaded, inputs)
    late = {text: from_position(capture, text, job.headline_start) for text, capture in loaded.items()}
    learned = _train(job, fitted)
    tables, setting = Tables(LAYER_SCHEMAS), Setting.of(job.sinks, job.hot, job.top_k, job.grids)
    for kv_head in progress(range(loaded[measured[0]].kv_heads), desc=f"layer {job.layer}", unit="KV head"):
        views = {text: TextView.of(capture, kv_head, setting, True) for text, capture in late.items()}
        group = CalibratedGroup(tables, kv_head, views, loaded, setting, job)
        for spec in job.sizes:
            design = Design(spec.name, spec.code_bytes, fitted[spec, kv_head])
            group.measure(
                design, {text: records[text, spec][kv_head] for text in measured}, spec == job.sizes[0]
            )
        if learned:
            group.compare(fitted[job.sizes[0], kv_head], *learned[kv_head])
        number = loaded[measured[0]].kv_numbers[kv_head]
        print(f"layer {job.layer}: KV head {number} calibrated", flush=True)
    tables.write(outputs, sketch_metadata(job.captures, job.code))


def _codecs(
    job: CalibrateLayer, loaded: Mapping[CapturedText, LayerCapture], inputs: Mapping[str, str]
) -> tuple[dict[tuple[CodecSpec, int], Codec], dict[tuple[CapturedText, CodecSpec], list[Records]]]:
    """Codecs and records of every size: those of sketch, and those that it has not made, fitted likewise."""
    fitted = load_codecs(inputs["codecs"], job.sketched)
    records = {
        (text, spec): found
        for text in loaded
        for spec, found in read_records(inputs["records"], text.text, job.sketched).items()
    }
    missing = [spec for spec in job.sizes if spec not in job.sketched]
    if missing:
        fitted |= fit_codecs(_of_role(job, "codec"), missing, job.layer, job.seed)
        for text, capture in loaded.items():
            for spec in missing:
                heads = range(capture.kv_heads)
                records[text, spec] = [fitted[spec, head].encode(capture.keys[head]) for head in heads]
    return fitted, records


def _train(
    job: CalibrateLayer, fitted: Mapping[tuple[CodecSpec, int], Codec]
) -> list[tuple[Codec, np.ndarray]] | None:
    """The learned codec of each KV head and its training losses; None on layers that are not trained."""
    if not job.learned.every or job.layer % job.learned.every:
        return None
    captures, spec = _of_role(job, "codec"), job.sizes[0]
    return [_train_head(captures, head, fitted[spec, head], job) for head in range(captures[0].kv_heads)]


def _of_role(job: CalibrateLayer, role: str) -> list[LayerCapture]:
    return [read_layer(text.folder, job.layer) for text in job.captures if text.role == role]


def _train_head(
    captures: Sequence[LayerCapture], kv_head: int, codec: Codec, job: CalibrateLayer
) -> tuple[Codec, np.ndarray]:
    # Torch takes as long to import as a layer takes to measure, so only layers that train pay for it.
    from ghostkv.models.learned_frame import train_frame, training_text

    learned = job.learned
    seed = stable_seed(learned.seed, captures[0].layer, kv_head) % 2**32
    exact = (job.sinks, job.hot, job.top_k)
    seen = [training_text(capture, kv_head, codec, exact, seed) for capture in captures]
    trained = train_frame(
        [text for text in seen if text is not None], codec, learned.steps, learned.rate,
        learned.lost, (learned.queries, learned.keys), seed,
    )  # fmt: skip
    keys = np.concatenate([capture.keys[kv_head].astype(np.float64) for capture in captures])
    queries = np.concatenate(
        [capture.group_queries(kv_head).reshape(-1, keys.shape[1]).astype(np.float64) for capture in captures]
    )
    return Learned(codec.code_bytes, frame=trained.frame).fit(keys, queries), trained.losses
