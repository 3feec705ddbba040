"""Sketch: fit codecs on codec texts and write the ghost records of all other texts, a layer at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ghostkv.captures.capture_files import read_layer
from ghostkv.captures.captured_texts import sketch_metadata
from ghostkv.codecs.fitting import fit_codecs
from ghostkv.codecs.records import RecordWriter, save_codecs
from ghostkv.files.errors import ConfigError

if TYPE_CHECKING:
    from ghostkv.stages.sketch.jobs import SketchLayer


def sketch_layer(job: SketchLayer, inputs: Mapping[str, Sequence[str]], outputs: Mapping[str, str]) -> None:
    """Fit codecs and write ghost records of one layer.

    Raises
    ------
    ConfigError
        No capture has the role `codec`, or a codec is unknown.
    """
    texts, chosen, layer = job.captures, job.codecs, job.layer
    calibration = [read_layer(text.folder, layer) for text in texts if text.role == "codec"]
    if not calibration:
        raise ConfigError(
            "texts: no text has the role 'codec', so nothing can fit the codecs; set per_role.codec: 1"
        )
    fitted = fit_codecs(calibration, (*chosen, *job.fitted), layer, job.seed)
    metadata = sketch_metadata(texts, job.code)
    save_codecs(fitted, outputs["codecs"], metadata)
    with RecordWriter(outputs["records"], chosen, metadata) as writer:
        for text in texts:
            if text.role == "codec":
                continue
            capture = read_layer(text.folder, layer)
            written = {
                spec: [fitted[spec, head].encode(capture.keys[head]) for head in range(capture.kv_heads)]
                for spec in chosen
            }
            writer.add(text.text, capture.kv_numbers, capture.tokens, written)
            print(f"layer {layer}: records of {text.text} written", flush=True)
