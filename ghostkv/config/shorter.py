"""A config made for shorter texts than it asks for."""

from __future__ import annotations

from typing import Any

from ghostkv.config.experiment import Config


def shorter(config: Config, tokens: int, queries: int) -> dict[str, Any]:
    """Sections of a config, plain, for texts of so many tokens: most queries lie in the second half, which is measured.

    Parameters
    ----------
    queries : int
        Queries of a head in the second half, and a quarter as many before.
    """
    plain = config.plain()
    half, first = tokens // 2, config.capture.query_bands[0].start
    bands = [{"start": half, "stop": tokens, "count": min(queries, tokens - half)}]
    if first < half:
        bands.insert(0, {"start": first, "stop": half, "count": min(queries // 4, half - first)})
    return plain | {
        "capture": plain["capture"] | {"tokens": tokens, "query_bands": bands},
        "frontier": plain["frontier"] | {"headline_start": half},
        "quality": plain["quality"] | {"continuation": min(config.quality.continuation, half)},
    }
