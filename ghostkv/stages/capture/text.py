"""Stage `capture`: one model's attention on one text, or a lab's own tensors, as a capture folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ghostkv import __version__
from ghostkv.captures.proven_writer import FILES, ProvenWriter
from ghostkv.files.errors import ConfigError, ModelError
from ghostkv.files.io import stable_seed
from ghostkv.models.tokenizer import token_ids_of
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
    row = text_row(texts_table, text)
    positions = sample_positions(params["query_bands"], params["tokens"], text, params["seed"])
    record_text(model_folder, row, positions, params, outputs, threads)


def record_text(
    model_folder: str,
    row: Mapping[str, Any],
    positions: np.ndarray,
    params: Mapping[str, Any],
    outputs: Mapping[str, str],
    threads: int,
) -> None:
    """Run the model over a row of `texts.parquet` and write its attention at `positions`; see `capture_text`."""
    from ghostkv.models.capture import record_attention
    from ghostkv.models.load import load_model, load_tokenizer

    text, tokens, manifest = row["text"], params["tokens"], _manifest(model_folder)
    token_ids = token_ids_of(load_tokenizer(model_folder), row["content"], tokens, text)
    model = load_model(model_folder, params.get("dtype", "float32"), threads)
    layers = None if params["layers"] == "all" else params["layers"]
    metadata = _metadata(params) | {
        "model": manifest["model"],
        "weight_sha256": manifest["weight_sha256"],
        "text": text,
        "text_sha256": row["sha256"],
        "domain": row["domain"],
        "role": row["role"],
        "cache_dtype": params.get("cache_dtype", "float16"),
    }
    with ProvenWriter(_folder(outputs), metadata, params["tolerance"]) as writer:
        record_attention(model, token_ids, positions, writer.append, layers, metadata["cache_dtype"])


def sample_positions(bands: list[Mapping[str, int]], tokens: int, text: str, seed: int) -> np.ndarray:
    """Query positions of one text: `count` of each band, drawn without replacement.

    Parameters
    ----------
    bands : list of mapping
        `start`, `stop` (exclusive) and `count` of each band, in tokens.
    tokens : int
        Length of the capture.
    text : str
        The draw depends on it, on `seed` and on the band alone: another layer list or band list leaves a
        band's draw as it is.
    seed : int

    Returns
    -------
    ndarray of int32, shape [sum of counts], ascending

    Raises
    ------
    ConfigError
        A band reaches beyond the capture, asks for more queries than it has positions, or overlaps another.
    """
    draws = []
    for number, band in enumerate(bands):
        start, stop, count = band["start"], band["stop"], band["count"]
        where = f"config: capture.query_bands[{number}] is {{start: {start}, stop: {stop}, count: {count}}}"
        if not 0 <= start < stop <= tokens:
            raise ConfigError(
                f"{where}, but the capture has {tokens} tokens. Accepted: 0 <= start < stop <= {tokens}.\n"
                f"  Write: {{start: {min(max(start, 0), tokens // 2)}, stop: {tokens}, count: {count}}}, or "
                "raise capture.tokens"
            )
        if not 0 < count <= stop - start:
            raise ConfigError(
                f"{where}, but the band has {stop - start} positions.\n  Write: count: {stop - start}   (or "
                "less)"
            )
        generator = np.random.default_rng(stable_seed(seed, text, start, stop))
        draws.append(start + generator.choice(stop - start, size=count, replace=False))
    positions = np.sort(np.concatenate(draws)).astype(np.int32)
    if len(np.unique(positions)) < len(positions):
        raise ConfigError(
            "config: capture.query_bands overlap.\n  Write: bands whose start is at or after the stop "
            "before it"
        )
    return positions


def _folder(outputs: Mapping[str, str]) -> Path:
    folders = {Path(outputs[name]).parent for name in FILES}
    if len(folders) != 1 or any(Path(outputs[name]).name != f"{name}.parquet" for name in FILES):
        raise ValueError(
            f"a capture is kv.parquet, queries.parquet and layers.parquet in one folder, not {dict(outputs)}"
        )
    return folders.pop()


def _metadata(params: Mapping[str, Any]) -> dict[str, str]:
    return {"package_version": __version__, "fingerprint": params.get("code", "")}


def _manifest(model_folder: str) -> dict[str, Any]:
    path = Path(model_folder) / "manifest.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{path}: no readable manifest ({error}), so what was captured could not be named.\n  Rerun the "
            "model rule"
        ) from error
