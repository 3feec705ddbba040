"""SkyLight's attention errors on captures, by its own norm, and beside its board.

Error: ||true - out|| / ||true|| over the concatenated heads of a call, a mean over calls. Density: the share of keys that are read,
without the index. Sinks and local window hold 128 tokens each at a context of 32,768: here as many (`literal`), and the same share of
the context (`scaled`), without which a context of 4,096 would leave next to nothing to choose. As on the board, each method stands
at each density with the variant that errs least there.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.stats import rankdata

from ghostkv.captures.capture_files import read_layer
from ghostkv.captures.captured_texts import CapturedText, by_role, sketch_metadata
from ghostkv.files.io import stable_seed
from ghostkv.files.progress import progress
from ghostkv.files.tables import write_rows
from ghostkv.stages.reproduce.published import BOARD, QA_2
from ghostkv.stages.reproduce.schemas import BOARD_SCHEMA, ERROR_SCHEMA
from ghostkv.stages.reproduce.skylight.call import CONTEXT, FIXED, AttentionCall, CapturedCache
from ghostkv.stages.reproduce.skylight.fixed import (
    BoardDoubleSparsity,
    BoardOracleTopK,
    BoardOracleTopP,
    BoardPQCache,
    BoardQuest,
)
from ghostkv.stages.reproduce.skylight.methods import BoardMethod, BoardSetting
from ghostkv.stages.reproduce.skylight.sampling import BoardMagicPig, BoardVAttention

if TYPE_CHECKING:
    from ghostkv.stages.reproduce.jobs import ErrorTable

METHODS: tuple[type[BoardMethod], ...] = (
    BoardOracleTopP, BoardOracleTopK, BoardPQCache, BoardQuest, BoardDoubleSparsity, BoardMagicPig, BoardVAttention,
)  # fmt: skip
FRAMES = ("scaled", "literal")
# Published densities of single runs lie near those of the board.
_NEAR = 0.02
_Measured = dict[tuple[str, str, BoardSetting, CapturedText], list[tuple[float, float]]]


def error_table(job: ErrorTable, inputs: Mapping[str, Sequence[str]], outputs: Mapping[str, str]) -> None:
    """Write the error of every method, setting and text, and what of them stands beside SkyLight's figures.

    Both tables are empty where the captures hold no values.
    """
    texts = by_role(job.captures, "codec", "held_out")
    measured: _Measured = defaultdict(list)
    turns = [(layer, text) for layer in job.layers for text in texts["held_out"]]
    for layer, text in progress(turns, desc="layers and texts", unit="layer"):
        codec = next((one for one in texts["codec"] if one.domain == text.domain), texts["codec"][0])
        cache = _cache(job, layer, text, codec)
        if cache is None:
            continue
        calls = {frame: _calls(job, frame, cache) for frame in FRAMES}
        for method in METHODS:
            indexed = method(cache)
            for frame, found in calls.items():
                for call in found:
                    for setting, inclusion in indexed.selections(call, job.densities):
                        measured[frame, method.name, setting, text].append(call.measured(inclusion))
    rows = list(_rows(measured))
    about = sketch_metadata(texts["held_out"], job.code)
    write_rows(rows, outputs["errors"], ERROR_SCHEMA, about)
    write_rows(board(rows, job.densities), outputs["board"], BOARD_SCHEMA, about)


def _cache(job: ErrorTable, layer: int, text: CapturedText, codec: CapturedText) -> CapturedCache | None:
    """A layer of a text whose first half was read before queries are measured; None without values."""
    capture = read_layer(text.folder, layer)
    if capture.values is None:
        return None
    rng = np.random.default_rng(stable_seed(job.seed, text.text, layer))
    return CapturedCache(capture, read_layer(codec.folder, layer), capture.tokens // 2, rng)


def _calls(job: ErrorTable, frame: str, cache: CapturedCache) -> list[AttentionCall]:
    """Random queries of the second half of a text, of which sinks and local window are less than a tenth of what they see."""
    capture = cache.capture
    first, last = capture.first_visible(), capture.positions + 1
    fixed = FIXED if frame == "literal" else max(1, round(FIXED * capture.tokens / CONTEXT))
    late = np.flatnonzero((capture.positions >= cache.prefill) & (last - first > 20 * fixed))
    chosen = np.sort(cache.rng.choice(late, min(job.error_queries, len(late)), replace=False))
    return [AttentionCall(cache, int(one), int(first[one]), int(last[one]), fixed) for one in chosen]


def _rows(measured: _Measured) -> Iterator[dict[str, Any]]:
    for (frame, method, setting, text), found in measured.items():
        density, error = np.mean(found, axis=0)
        about = {"frame": frame, "method": method, "variant": setting.variant, "setting": setting.value}
        about |= {"text": text.text, "domain": text.domain, "calls": len(found)}
        yield about | {"density": density, "error": error}


def board(rows: Sequence[Mapping[str, Any]], densities: Sequence[float]) -> Iterator[dict[str, Any]]:
    """Rows of `BOARD_SCHEMA`: every method at every density beside what is published, with ranks among those where both are known.

    Parameters
    ----------
    rows : sequence of mapping
        Of `ERROR_SCHEMA`; texts count alike.
    """
    for frame in FRAMES:
        own = [row for row in rows if row["frame"] == frame]
        for density in densities if own else ():
            for source, published in _published(density).items():
                yield from _ranked(own, frame, density, source, published)


def _published(density: float) -> dict[str, dict[str, float | None]]:
    """Published errors by source and method, None where there is no such figure."""
    runs = {name: min(points, key=lambda point: abs(point[0] - density)) for name, points in QA_2.items()}
    near = {name: error for name, (at, error) in runs.items() if abs(at - density) <= _NEAR}
    names = [method.name for method in METHODS]
    return {
        "board": {name: BOARD.get(name, {}).get(density) for name in names},
        "qa_2": {name: near.get(name) for name in names},
    }


def _ranked(
    own: Sequence[Mapping[str, Any]],
    frame: str,
    density: float,
    source: str,
    published: Mapping[str, float | None],
) -> Iterator[dict[str, Any]]:
    ours = {name: at_density([row for row in own if row["method"] == name], density) for name in published}
    both = [name for name, theirs in published.items() if theirs is not None and ours[name] is not None]
    ranks = {
        column: dict(zip(both, rankdata([figures[name] for name in both]), strict=True))
        for column, figures in (("rank_ours", ours), ("rank_theirs", published))
    }
    for name, theirs in published.items():
        found = [row for row in own if row["method"] == name]
        texts = {row["text"]: row["calls"] for row in found}
        about = {"frame": frame, "method": name, "density": density, "source": source, "texts": len(texts)}
        about |= {"calls": sum(texts.values()), "ours": ours[name], "theirs": theirs}
        yield about | {column: found.get(name) for column, found in ranks.items()}


def at_density(rows: Sequence[Mapping[str, Any]], density: float) -> float | None:
    """The least error of a method's variants at a density, its logarithm straight between settings; None beyond all of them."""
    curves: dict[str, dict[float, list[tuple[float, float]]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        curves[row["variant"]][row["setting"]].append((row["density"], row["error"]))
    found = []
    for curve in curves.values():
        points = sorted(tuple(np.mean(texts, axis=0)) for texts in curve.values())
        at, errors = np.array(points).T
        if at[0] - 1e-3 <= density <= at[-1] + 1e-3:
            found.append(float(np.exp(np.interp(density, at, np.log(np.maximum(errors, 1e-12))))))
    return min(found, default=None)
