"""Generated captures: tensors whose law is known, so that what the lab measures can be held against what must come out.

`draw` makes a `LayerCapture` from one of `ghostkv.captures.generators`, and every function of the lab runs on it unchanged.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ghostkv.captures.capture_files import LayerCapture
from ghostkv.captures.generators import Generator, Needles, World
from ghostkv.files.io import stable_seed


@dataclass(frozen=True)
class Drawn:
    """A generated text of one layer."""

    capture: LayerCapture
    worlds: tuple[World, ...]  # one a KV head
    # int64 [kv_heads, queries]: position of the key that the queries of this position ask for; -1 for none.
    asked: np.ndarray


@dataclass(frozen=True)
class Asks:
    """Which queries ask for a planted key, and how loudly."""

    # int64 [queries]: positions of planted keys, each once; -1 for queries that ask for none.
    asked: np.ndarray
    score: np.ndarray  # [queries]: score that the planted key is to have for every head of the group


def draw(
    generator: Generator,
    seed: int | str,
    text: str,
    tokens: int,
    positions: np.ndarray,
    *,
    kv_heads: int = 1,
    group: int = 3,
    width: int = 64,
    asks: Asks | None = None,
    layer: int = 0,
) -> Drawn:
    """Generate a text of `kv_heads` KV heads, each shared by `group` query heads of dimension `width`.

    The seed names the worlds: texts of one seed share them. Keys and queries depend on seed, text and KV head alone.
    Positions of queries are ascending. `asks` are planted keys; by default those that the generator itself asks for
    (`Needles`), or none.

    Keys and values are float16, as a cache holds them; values are ``N(0, I)`` about a mean of ones. Outputs are None:
    no model made these tensors.
    """
    positions = np.asarray(positions, np.int32)
    worlds, keys, values, queries, found = [], [], [], [], []
    for head in range(kv_heads):
        world = generator.world(np.random.default_rng(stable_seed(seed, "world", head)), width)
        rng = np.random.default_rng(stable_seed(seed, text, head))
        k = generator.keys(rng, world, tokens)
        q = generator.queries(rng, world, group, len(positions)).astype(np.float32).astype(np.float64)
        wanted = asks or _own_asks(generator, rng, positions)
        plant(k, q, wanted, width**-0.5)
        worlds.append(world)
        keys.append(k.astype(np.float16))
        queries.append(q.astype(np.float32))
        values.append((1.0 + rng.normal(size=(tokens, width))).astype(np.float16))
        found.append(wanted.asked)
    capture = LayerCapture(
        layer=layer,
        keys=np.stack(keys),
        values=np.stack(values),
        queries=np.concatenate(queries),
        outputs=None,
        positions=positions,
        scale=width**-0.5,
    )
    return Drawn(capture, tuple(worlds), np.stack(found))


def plant(keys: np.ndarray, queries: np.ndarray, asks: Asks, scale: float) -> None:
    """Change keys [tokens, head_dim], in place and as little as possible, so that each asking query [group, queries,
    head_dim] scores its key as wished.

    The key gains the least-squares correction within the span of the group's queries; across it, the key stays as it
    was. For a Gaussian key of unit covariance that is the key's law given its scores.
    """
    rows = np.flatnonzero(asks.asked >= 0)
    if not len(rows):
        return
    where, looking = asks.asked[rows], queries[:, rows].transpose(1, 0, 2)  # [asks, group, head_dim]
    lacking = asks.score[rows, None] / scale - np.einsum("agd,ad->ag", looking, keys[where])
    gram = looking @ looking.transpose(0, 2, 1)
    keys[where] += np.einsum("ag,agd->ad", np.linalg.solve(gram, lacking[..., None])[..., 0], looking)


def choose_asks(
    rng: np.random.Generator, positions: np.ndarray, asking: np.ndarray, margin: int, score: np.ndarray
) -> Asks:
    """Give each asking query a key of its own, anywhere from `margin` to `margin` before the query.

    Positions, `asking` (bool) and `score` are of shape [queries]. Queries with no room behind them, or whose key is
    taken already, do not ask.
    """
    room = np.asarray(positions, np.int64) - 2 * margin
    where = margin + (rng.random(len(room)) * np.maximum(room, 1)).astype(np.int64)
    where[~asking | (room < 1)] = -1
    first = np.zeros(len(where), bool)
    first[np.unique(where, return_index=True)[1]] = True
    return Asks(np.where(first, where, -1), np.asarray(score, np.float64))


def _own_asks(generator: Generator, rng: np.random.Generator, positions: np.ndarray) -> Asks:
    asking = np.zeros(len(positions), bool)
    score = np.zeros(len(positions))
    if isinstance(generator, Needles):
        asking[np.linspace(0, len(positions) - 1, min(generator.count, len(positions))).astype(int)] = True
        score[:] = generator.needle_score(generator.mass, int(positions.max()))
    # A key within the hot window or among the sinks could not be lost.
    margin = min(256, int(positions.min()) // 4)
    return choose_asks(rng, positions, asking, margin, score)


@dataclass(frozen=True)
class Shape:
    """Sizes of generated tensors: tokens, query heads that share the KV head, head dimension."""

    tokens: int
    group: int
    width: int


def last_queries(generator: Generator, seed: int, text: str, shape: Shape, queries: int) -> Drawn:
    """A text with the queries of its last positions."""
    count = min(queries, shape.tokens // 2)
    positions = np.arange(shape.tokens - count, shape.tokens)
    return draw(generator, seed, text, shape.tokens, positions, group=shape.group, width=shape.width)
