"""Laws of keys and queries from which captures are generated, each with what is known of its scores.

A generator draws a *world* (axes, spectra, directions) and then texts in it, so that a codec may be fitted on one text
and measured on another, as with captures of a model. Score of a query `q` and a key `k` is ``q.k / sqrt(head_dim)``; all
generators are scaled so that the scores of a query vary with a standard deviation of about `spread`.

| generator | keys | known of the scores of a query `q` |
|---|---|---|
| gaussian | ``N(0, I)`` | independent ``N(0, s^2)``, ``s = |q| / sqrt(d)`` |
| anisotropic | ``N(0, K)``, power-law spectrum | independent ``N(0, q.Kq / d)`` |
| heavy_tailed | multivariate Student | independent Student t, `dof` degrees of freedom |
| needles | gaussian, a few keys planted | the planted key has a chosen score, and its softmax mass follows |
| drifting | gaussian, mean moves with position | normal, mean grows linearly with position |
| sinks | gaussian beside a fixed axis | the first keys have one chosen score for every query |

`ghostkv.stages.synthetic.expectations` holds the closed forms.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np


@dataclass(frozen=True)
class World:
    """What all texts of one KV head share."""

    # [head_dim, head_dim] both: a key is ``root @ normal``, likewise a query; second moments are ``root @ root.T``
    key_root: np.ndarray
    query_root: np.ndarray
    axis: np.ndarray  # [head_dim]: unit vector: where keys drift to, or where sinks lie

    @property
    def width(self) -> int:
        return len(self.axis)

    @property
    def key_covariance(self) -> np.ndarray:
        return self.key_root @ self.key_root.T


@dataclass(frozen=True)
class Generator:
    """Base of the generators; the base itself is the Gaussian one."""

    name: ClassVar[str] = "gaussian"
    # Whether the cold scores of a query are independent normal ones of one variance, as closed forms for ranks ask.
    normal: ClassVar[bool] = True

    spread: float = 2.0  # standard deviation of a query's scores, over keys and queries
    span: int = 4096  # tokens that planted masses and drift refer to

    def world(self, rng: np.random.Generator, width: int) -> World:
        """Draw what texts share."""
        axis = rng.normal(size=width)
        return World(np.eye(width), self.spread * np.eye(width), axis / np.linalg.norm(axis))

    def keys(self, rng: np.random.Generator, world: World, tokens: int) -> np.ndarray:
        """Keys of positions 0..tokens-1, shape [tokens, head_dim]."""
        return rng.normal(size=(tokens, world.width)) @ world.key_root.T

    def queries(self, rng: np.random.Generator, world: World, heads: int, count: int) -> np.ndarray:
        """Queries of the heads that read one KV head, shape [heads, count, head_dim]."""
        return rng.normal(size=(heads, count, world.width)) @ world.query_root.T

    def query_moment(self, world: World) -> np.ndarray:
        """``E[q q^T]``."""
        return world.query_root @ world.query_root.T

    def key_mean(self, world: World, position: np.ndarray) -> np.ndarray:
        """Mean key at each position, shape [positions, head_dim]."""
        return np.zeros((len(position), world.width))

    def needle_score(self, mass: float, tokens: int | None = None) -> float:
        """The score that gives one key a softmax mass of `mass` among `tokens` normal scores: ``S`` with
        ``e^S / (e^S + n e^(spread^2 / 2)) = mass``, for the expected exponential of a normal score is that of half
        its variance."""
        return np.log(tokens or self.span) + self.spread**2 / 2 + np.log(mass / (1 - mass))


@dataclass(frozen=True)
class Anisotropic(Generator):
    """Keys and queries with power-law spectra over the same random axes, the queries' in another order: directions in
    which keys vary are not those that queries look along.
    """

    name: ClassVar[str] = "anisotropic"

    # Variance of the i-th axis is proportional to ``i ** -decay``
    decay: float = 1.0
    query_decay: float = 1.0

    def world(self, rng: np.random.Generator, width: int) -> World:
        axes, _ = np.linalg.qr(rng.normal(size=(width, width)))
        rank = np.arange(1.0, width + 1)
        keys, queries = rank**-self.decay, rng.permutation(rank) ** -self.query_decay
        keys *= width / keys.sum()
        queries *= self.spread**2 * width / (keys * queries).sum()
        return World(axes * np.sqrt(keys), axes * np.sqrt(queries), axes[:, 0])


@dataclass(frozen=True)
class HeavyTailed(Generator):
    """Multivariate Student keys of unit variance: a few keys are long, so scores have power tails."""

    name: ClassVar[str] = "heavy_tailed"
    normal: ClassVar[bool] = False

    dof: float = 6.0  # degrees of freedom, above 2; the score's k-th moment exists for k < dof

    def keys(self, rng: np.random.Generator, world: World, tokens: int) -> np.ndarray:
        length = np.sqrt((self.dof - 2.0) / rng.chisquare(self.dof, tokens))
        return super().keys(rng, world, tokens) * length[:, None]


@dataclass(frozen=True)
class Needles(Generator):
    """Gaussian tensors in which some queries ask for one planted key each."""

    name: ClassVar[str] = "needles"
    normal: ClassVar[bool] = False

    mass: float = 0.5  # softmax mass that the planted key is to have
    count: int = 8  # queries of a text that ask, and keys planted


@dataclass(frozen=True)
class Drifting(Generator):
    """The mean key moves along one axis as the text goes on, and queries look along it: recent keys score higher, and
    a codec fitted early meets keys that it has not seen.
    """

    name: ClassVar[str] = "drifting"
    normal: ClassVar[bool] = False

    # How far the mean moves over `span` tokens, in standard deviations of a key's coordinate.
    shift: float = 8.0
    pull: float = 2.0  # mean of a query along the axis, in its standard deviations

    def key_mean(self, world: World, position: np.ndarray) -> np.ndarray:
        return self.shift * (np.asarray(position) / self.span)[:, None] * world.axis

    def keys(self, rng: np.random.Generator, world: World, tokens: int) -> np.ndarray:
        return super().keys(rng, world, tokens) + self.key_mean(world, np.arange(tokens))

    def queries(self, rng: np.random.Generator, world: World, heads: int, count: int) -> np.ndarray:
        return super().queries(rng, world, heads, count) + self.pull * self.spread * world.axis

    def query_moment(self, world: World) -> np.ndarray:
        mean = self.pull * self.spread * world.axis
        return super().query_moment(world) + np.outer(mean, mean)


@dataclass(frozen=True)
class Sinks(Generator):
    """The first keys draw a fixed share of every query's mass.

    Queries have one constant component along an axis that ordinary keys do not have; sink keys lie on it.
    """

    name: ClassVar[str] = "sinks"

    mass: float = 0.6  # softmax mass of all sinks together
    count: int = 4  # sinks, the first keys of a text

    def world(self, rng: np.random.Generator, width: int) -> World:
        plain = super().world(rng, width)
        beside = np.eye(width) - np.outer(plain.axis, plain.axis)
        return World(beside, self.spread * beside, plain.axis)

    def keys(self, rng: np.random.Generator, world: World, tokens: int) -> np.ndarray:
        keys = super().keys(rng, world, tokens)
        score = self.needle_score(self.mass, self.span - self.count) - np.log(self.count)
        keys[: self.count] = score * np.sqrt(world.width) / self._component(world) * world.axis
        return keys

    def queries(self, rng: np.random.Generator, world: World, heads: int, count: int) -> np.ndarray:
        return super().queries(rng, world, heads, count) + self._component(world) * world.axis

    def query_moment(self, world: World) -> np.ndarray:
        return super().query_moment(world) + self._component(world) ** 2 * np.outer(world.axis, world.axis)

    def _component(self, world: World) -> float:
        return self.spread * np.sqrt(world.width) / 2


GENERATORS = {kind.name: kind for kind in (Generator, Anisotropic, HeavyTailed, Needles, Drifting, Sinks)}


def make(entry: dict[str, Any], **common: Any) -> Generator:
    """A generator from a config entry ``{"name", ...}``, which config has checked; `common` are parameters that the
    entry may override."""
    given = dict(entry)
    return GENERATORS[given.pop("name")](**(common | given))
