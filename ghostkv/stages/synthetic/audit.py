"""Sketch quality on generated tensors: ranks, score errors and eliminated shares, each beside its closed form."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from ghostkv.captures.generated import Drawn, Shape, last_queries
from ghostkv.captures.generators import Drifting, Generator, HeavyTailed, Needles, Sinks
from ghostkv.codecs import Codec
from ghostkv.codecs.fitting import fit
from ghostkv.codecs.records import CodecSpec
from ghostkv.elimination import frontier
from ghostkv.elimination.frontier import Design, GroupView, Setting
from ghostkv.elimination.grid import Grid
from ghostkv.elimination.record_scores import ORACLE_MARGIN
from ghostkv.elimination.summaries import bound_columns
from ghostkv.elimination.text_view import errors_of
from ghostkv.stages.synthetic import expectations as expect
from ghostkv.stages.synthetic.codec_expectations import estimate_law
from ghostkv.stages.synthetic.measures import ColdScores

ORACLE = Design("exact", 0, None)
# Thetas of the elimination check, in standard deviations of a score.
_THETAS = np.array([-1.0, 0.0, 1.0, 2.0, 2.5])
_FIT_QUERIES = 128
_MASS = 0.05


@dataclass(frozen=True)
class Audit:
    """One draw: a codec text, a held-out text, and the codecs to look at."""

    generator: Generator
    seed: int
    shape: Shape
    queries: int
    setting: Setting
    tops: Sequence[int]

    def rows(self, chosen: Sequence[CodecSpec]) -> Iterator[dict]:
        """Rows of the audit table, without generator and draw."""
        held = last_queries(self.generator, self.seed, "held_out", self.shape, self.queries)
        view = frontier.view_group(held.capture, 0, self.setting, False)
        cold = ColdScores.of(view, max(self.tops))
        about = {"queries": cold.exact.shape[0], "keys": cold.exact.shape[1]}
        curves = _rank_curves(cold.exact.shape[1], tuple(self.tops))
        for measure, at, value, expected, kind in self._scores(held, view):
            yield _row("exact", 0, measure, at, value, expected, kind) | about
        # Half the keys fit a frame as well, and the audit fits hundreds.
        half = replace(self.shape, tokens=max(self.shape.tokens // 2, 2 * self.shape.width))
        codec_text = last_queries(self.generator, self.seed, "codec", half, _FIT_QUERIES)
        for spec in chosen:
            codec = fit(spec, codec_text, self.seed)
            for measure, at, value, expected, kind in self._sketch(codec, spec, held, view, cold, curves):
                yield _row(spec.name, spec.code_bytes, measure, at, value, expected, kind) | about

    def _sketch(
        self,
        codec: Codec,
        spec: CodecSpec,
        held: Drawn,
        view: GroupView,
        cold: ColdScores,
        curves: expect.RankCurves,
    ) -> Iterator[tuple]:
        """Ranks and score error of one codec."""
        records = codec.encode(held.capture.keys[0])
        known = frontier.estimate_group(view, Design(spec.name, spec.code_bytes, codec), records)
        estimates = known.scores[..., cold.cold].reshape(cold.exact.shape)
        law = None
        if self._is_normal():
            world, flat = held.worlds[0], view.queries.reshape(-1, self.shape.width)
            law = estimate_law(codec, np.zeros(self.shape.width), world.key_covariance, flat)
        ranks = [("overlap", top, value) for top, value in cold.overlap(estimates, self.tops).items()]
        ranks.append(("spearman", None, cold.spearman(estimates)))
        # Estimates of coarse codes are sums of few steps and only roughly normal.
        kind = "approximate" if spec.name == "transform_code" else "exact"
        isotropic = type(self.generator) is Generator
        beta = expect.squared_correlation_law(spec.name, len(codec.encoder_), self.shape.width)
        for measure, top, value in ranks:
            expected = None
            if isotropic and beta:
                expected = expect.mean_over_beta(
                    beta, lambda rho, m=measure, k=top: curves.measure(m, k, rho)
                )
            elif law is not None:
                rho = law.correlation[:: 1 if measure == "overlap" else 4]
                expected = float(curves.measure(measure, top, rho).mean())
            yield measure, top, value, expected, kind
        error, power = np.mean((estimates - cold.exact).astype(np.float64) ** 2), self._power(held, cold)
        expected = self._error(spec, len(codec.encoder_), held, cold)
        if expected is None and law is not None:
            expected = float(law.squared_error.mean() * held.capture.scale**2 / power)
        if isinstance(self.generator, Needles):
            kind = "approximate"  # planted keys are not independent of the queries
        yield "squared_error", None, float(error / power), expected, kind
        bounds = bound_columns(errors_of(view, known))
        yield "violations", None, float(bounds["violations"]), None, None

    def _is_normal(self) -> bool:
        """Whether cold scores are independent normal ones: sinks must not be cold."""
        return self.generator.normal and not (
            isinstance(self.generator, Sinks) and self.generator.count > self.setting.sinks
        )

    def _moment(self, held: Drawn, cold: ColdScores) -> np.ndarray:
        """``E[k k^T]`` over the cold keys."""
        world = held.worlds[0]
        mean = self.generator.key_mean(world, np.arange(cold.cold.start, cold.cold.stop))
        return world.key_covariance + mean.T @ mean / len(mean)

    def _power(self, held: Drawn, cold: ColdScores) -> float:
        """Expected squared score of a cold key."""
        moments = self._moment(held, cold) * self.generator.query_moment(held.worlds[0])
        return float(moments.sum() * held.capture.scale**2)

    def _error(self, spec: CodecSpec, dims: int, held: Drawn, cold: ColdScores) -> float | None:
        """Expected squared error over all projections of a kind, where the law of the projection is known."""
        formula = {
            "gaussian": expect.gaussian_sketch_error,
            "random_orthogonal": expect.random_subspace_error,
        }.get(spec.name)
        if formula is None or (isinstance(self.generator, Sinks) and not self._is_normal()):
            return None
        return formula(dims, self._moment(held, cold), self.generator.query_moment(held.worlds[0]))

    def _scores(self, held: Drawn, view: GroupView) -> Iterator[tuple]:
        """What exact scores do: eliminated share, lost top keys and mass below theta; mass of needles and sinks."""
        generator, capture, visible = self.generator, held.capture, view.visible
        scale, world = capture.scale, held.worlds[0]
        spread = scale * np.sqrt(
            np.einsum("gqi,ij,gqj->gq", view.queries, world.key_covariance, view.queries)
        )
        thetas = _THETAS * float(np.sqrt((spread**2).mean()))
        grid = Grid.of(thetas + ORACLE_MARGIN)
        setting = Setting(self.setting.sinks, self.setting.hot, self.setting.top_k, {"absolute": grid})
        swept = frontier.sweep_rule(view, frontier.estimate_group(view, ORACLE, None), "absolute", setting)
        below = below_thetas(generator, world, view, thetas, spread)
        if isinstance(generator, Sinks) and not self._is_normal():
            below = None
        plain = self._is_normal() and not isinstance(generator, Sinks)
        count, cold = int(visible.visible.mean()), visible.cold / visible.visible
        kind = "approximate" if isinstance(generator, Needles) else "exact"
        for i, theta in enumerate(_THETAS):
            rates = {
                name: float(swept.rates[name][..., i].mean())
                for name in ("elimination", "fer", "dropped_mass")
            }
            share = None if below is None else float(below[i].mean())
            yield "elimination", theta, rates["elimination"], share, kind
            fer = mass = None
            if plain:
                fer = float(expect.expected_fer(below[i], count, self.setting.top_k, cold).mean())
                mass = float((expect.expected_mass_below(thetas[i], spread, count) * cold).mean())
            yield "fer", theta, rates["fer"], fer, "exact"
            yield "dropped_mass", theta, rates["dropped_mass"], mass, "approximate"
        if plain:
            ordered = np.sort(view.exact.mass, axis=-1).cumsum(axis=-1, dtype=np.float64)
            hidden = capture.tokens - visible.visible
            share = ((ordered <= _MASS).sum(axis=-1) - hidden) / visible.visible
            expected = float(expect.elimination_at_mass(_MASS, spread).mean())
            yield "elimination_at_mass", _MASS, float(share.mean()), expected, "approximate"
        yield from self._planted(held, view, spread)

    def _planted(self, held: Drawn, view: GroupView, spread: np.ndarray) -> Iterator[tuple]:
        generator, count = self.generator, view.visible.visible
        if isinstance(generator, Needles):
            rows = np.flatnonzero(held.asked[0] >= 0)
            if len(rows):
                mass = view.exact.mass[:, rows, held.asked[0][rows]]
                score = generator.needle_score(generator.mass, int(held.capture.positions.max()))
                expected = expect.needle_mass(score, spread[:, rows], count[rows] - 1)
                yield "needle_mass", generator.mass, float(mass.mean()), float(expected.mean()), "approximate"
        if isinstance(generator, Sinks):
            score = generator.needle_score(generator.mass, generator.span - generator.count)
            mass = view.exact.mass[..., : generator.count].sum(axis=-1)
            expected = expect.needle_mass(score, spread, count - generator.count)
            yield "sink_mass", generator.mass, float(mass.mean()), float(expected.mean()), "approximate"


@lru_cache
def _rank_curves(keys: int, tops: tuple[int, ...]) -> expect.RankCurves:
    return expect.RankCurves(keys, tops)


def below_thetas(
    generator: Generator, world, view: GroupView, thetas: np.ndarray, spread: np.ndarray
) -> np.ndarray:
    """Expected share of the cold scores below each theta, shape [thetas, group, queries]."""
    dof = generator.dof if isinstance(generator, HeavyTailed) else None
    if not isinstance(generator, Drifting):
        return expect.share_below(thetas[:, None, None], 0.0, spread, dof)
    # The mean is linear in position: Gauss-Legendre over the cold range.
    nodes, weights = np.polynomial.legendre.leggauss(24)
    start, stop = view.visible.start[:, None], view.visible.stop[:, None]
    position = start + (stop - start) * (nodes + 1) / 2 - 0.5
    step = generator.key_mean(world, np.array([1.0]))[0]
    location = view.capture.scale * (view.queries @ step)[..., None] * position
    below = expect.share_below(thetas[:, None, None, None], location, spread[..., None])
    return below @ weights / 2


def _row(codec: str, code_bytes: int, measure: str, at, value: float, expected, kind) -> dict:
    return {
        "codec": codec, "code_bytes": code_bytes, "measure": measure, "at": None if at is None else float(at),
        "value": value, "expected": expected, "kind": None if expected is None else kind,
    }  # fmt: skip
