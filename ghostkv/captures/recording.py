"""What recording a text's attention depends on, whichever of its queries are wanted."""

from __future__ import annotations

from dataclasses import dataclass

from ghostkv.files.jobs import Job


@dataclass(frozen=True)
class Recording(Job):
    """One text through the model."""

    text: str
    tokens: int
    layers: tuple[int, ...]  # layers to record
    # Of the model's numbers; `cache_dtype` says what K and V are rounded to, see config
    # `capture.cache_dtype`.
    dtype: str
    device: str  # where they are computed, as config `model.device` says it
    cache_dtype: str
    tolerance: float  # largest unexplained relative error of attention recomputed from the file
    chunk: int | None  # tokens that are read at once
