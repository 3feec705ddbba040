"""Which queries of a text a capture records."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ghostkv.files.errors import ConfigError
from ghostkv.files.io import stable_seed

if TYPE_CHECKING:
    from ghostkv.config.capture import QueryBand


def sample_positions(bands: Sequence[QueryBand], tokens: int, text: str, seed: int) -> np.ndarray:
    """Query positions of one text, int32, ascending: `count` of each band, drawn without replacement.

    The draw depends on the text, the seed and the band alone: another layer list or band list leaves a band's draw as
    it is. Raises ConfigError where a band reaches beyond the capture of `tokens`, asks for more queries than it has
    positions, or overlaps another.
    """
    draws = []
    for number, band in enumerate(bands):
        start, stop, count = band.start, band.stop, band.count
        where = f"config: capture.query_bands[{number}] is {{start: {start}, stop: {stop}, count: {count}}}"
        if not 0 <= start < stop <= tokens:
            raise ConfigError(
                f"{where}, but the capture has {tokens} tokens. Accepted: 0 <= start < stop <= {tokens}.\n"
                f"  Write: {{start: {min(max(start, 0), tokens // 2)}, stop: {tokens}, count: {count}}}, or "
                "raise capture.tokens"
            )
        if not 0 < count <= stop - start:
            raise ConfigError(
                f"{where}, but the band has {stop - start} positions.\n  Write: count: {stop - start}   (or less)"
            )
        generator = np.random.default_rng(stable_seed(seed, text, start, stop))
        draws.append(start + generator.choice(stop - start, size=count, replace=False))
    positions = np.sort(np.concatenate(draws)).astype(np.int32)
    if len(np.unique(positions)) < len(positions):
        raise ConfigError(
            "config: capture.query_bands overlap.\n  Write: bands whose start is at or after the stop before it"
        )
    return positions
