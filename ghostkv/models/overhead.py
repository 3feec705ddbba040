"""What capturing costs over a plain forward pass, timed side by side."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedModel

from ghostkv.captures.proven_writer import ProvenWriter
from ghostkv.files.scratch import scratch_folder
from ghostkv.models.capture import record_attention
from ghostkv.models.devices import finish
from ghostkv.models.probe import attention_layers
from ghostkv.models.reading import read_text


def time_pairs(
    model: PreTrainedModel,
    token_ids: Sequence[int],
    positions: np.ndarray,
    pairs: int,
    scratch: str | Path,
    chunk: int | None = None,
) -> list[dict[str, float | int]]:
    """Time plain forward pass and capture in turns, so that both meet the same machine.

    Parameters
    ----------
    positions : ndarray of int, shape [queries]
        As many queries as a capture keeps.
    scratch : str or Path
        Folder on the disk that captures go to; what is written there is removed.
    chunk : int, optional
        Tokens that either reads at once.

    Returns
    -------
    list of dict
        Columns of the benchmark's `OVERHEAD_SCHEMA`, a row a pair. Neither side runs the language-model head.
    """
    ids = torch.as_tensor(np.asarray(token_ids, np.int64), device=model.device)[None]

    def plain() -> None:
        read_text(model, ids, chunk)

    def capture() -> None:
        with (
            scratch_folder(scratch, "overhead") as folder,
            ProvenWriter(folder, {}, tolerance=None) as writer,
        ):
            record_attention(model, token_ids, positions, writer.append, chunk=chunk)

    # The first pass of a process allocates and compiles; it belongs to neither side.
    attention_layers(model)
    read_text(model, ids[:, :128])
    rows = []
    for pair in range(pairs):
        plain_seconds, capture_seconds = (_seconds(work, model.device) for work in (plain, capture))
        rows.append(
            {
                "pair": pair,
                "tokens": ids.shape[1],
                "queries": len(positions),
                "threads": torch.get_num_threads(),
                "plain_seconds": plain_seconds,
                "capture_seconds": capture_seconds,
                "ratio": capture_seconds / plain_seconds,
            }
        )
    return rows


def _seconds(run: Callable[[], None], device: torch.device) -> float:
    finish(device)
    started = time.perf_counter()
    run()
    finish(device)
    return time.perf_counter() - started
