"""What recording a text's attention depends on, whichever of its queries are wanted."""

from __future__ import annotations

from dataclasses import dataclass

from ghostkv.files.jobs import Job


@dataclass(frozen=True)
class Recording(Job):
    """One text through the model.

    Attributes
    ----------
    layers : tuple of int
        Layers to record.
    dtype : str
        Of the model's numbers; `cache_dtype` says what K and V are rounded to, see config `capture.cache_dtype`.
    tolerance : float
        Largest relative error of attention recomputed from the file.
    """

    text: str
    tokens: int
    layers: tuple[int, ...]
    dtype: str
    cache_dtype: str
    tolerance: float
