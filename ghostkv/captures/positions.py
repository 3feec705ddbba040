"""Which queries of a text a capture records."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ghostkv.files.io import stable_seed

if TYPE_CHECKING:
    from ghostkv.config.capture import QueryBand


def sample_positions(bands: Sequence[QueryBand], text: str, seed: int) -> np.ndarray:
    """Query positions of one text, int32, ascending: `count` of each band, drawn without replacement.

    The draw depends on the text, the seed and the band alone: another layer list or band list leaves a band's draw as
    it is. The config refuses bands that overlap, or ask for more queries than they have positions.
    """
    draws = []
    for band in bands:
        generator = np.random.default_rng(stable_seed(seed, text, band.start, band.stop))
        draws.append(band.start + generator.choice(band.stop - band.start, size=band.count, replace=False))
    return np.sort(np.concatenate(draws)).astype(np.int32)
