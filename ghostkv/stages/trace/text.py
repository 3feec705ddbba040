"""Stage `trace`: every query of the last part of one long text, in the order in which a decode asks them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ghostkv.sources.texts import text_row


def trace_text(
    model_folder: str,
    texts_table: str,
    params: Mapping[str, Any],
    outputs: Mapping[str, str],
    threads: int = 1,
) -> None:
    """Run the model over the long text once and record its attention at each of the last `steps` positions.

    A forward pass over the whole text asks the very queries that decoding it token by token would ask, so the
    trace is a teacher-forced decode. Its files are those of a capture (`captures.read_layer`).

    Parameters
    ----------
    model_folder : str
        Folder of a fetched model, with its `manifest.json`.
    texts_table : str
        `texts.parquet`.
    params : mapping
        `text`, `tokens` and `steps` of the trace; `layers`, `tolerance` and `cache_dtype` of config section
        `capture`; `dtype` of section `model`; `code`, the fingerprint of this stage.
    outputs : mapping
        Paths of `kv`, `queries` and `layers`, in one folder.
    threads : int
        torch threads.

    Raises
    ------
    ConfigError, ModelError, TextError, CaptureError
        With nothing left behind.
    """
    from ghostkv.models.record import record_text

    tokens, steps = params["tokens"], params["steps"]
    positions = np.arange(tokens - steps, tokens, dtype=np.int32)
    record_text(model_folder, text_row(texts_table, params["text"]), positions, params, outputs, threads)
