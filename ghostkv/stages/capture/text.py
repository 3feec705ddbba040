"""Stage `capture`: one model's attention on one text, or a lab's own tensors, as a capture folder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ghostkv.captures.positions import sample_positions
from ghostkv.sources.texts import text_row


def capture_text(
    model_folder: str,
    texts_table: str,
    text: str,
    params: Mapping[str, Any],
    outputs: Mapping[str, str],
    threads: int = 1,
) -> None:
    """Run the model over one text and record its attention.

    Parameters
    ----------
    model_folder : str
        Folder of a fetched model, with its `manifest.json`.
    texts_table : str
        `texts.parquet`.
    text : str
        Name of the text in that table.
    params : mapping
        `tokens`, `layers`, `query_bands`, `tolerance`, `seed` and `cache_dtype` of config section `capture`;
        `dtype` of section `model`; `code`, the fingerprint of this stage.
    outputs : mapping
        Paths of `kv`, `queries` and `layers`, in one folder.
    threads : int
        torch threads.

    Raises
    ------
    ConfigError, ModelError, TextError, CaptureError
        With nothing left behind: the files appear only when every layer has passed its proof.
    """
    from ghostkv.models.record import record_text

    row = text_row(texts_table, text)
    positions = sample_positions(params["query_bands"], params["tokens"], text, params["seed"])
    record_text(model_folder, row, positions, params, outputs, threads)
