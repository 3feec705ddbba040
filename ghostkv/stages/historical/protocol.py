"""The predecessor's protocol, with each of its faults as one switch.

A key's upper bound was the lesser of two, ``sketch_sim + epsilon + sigma`` from a Gaussian projection and
``anchor_sim + radius`` from its cluster; a key was eliminated where that fell below one theta for every query
and head. `Protocol` puts that right a fault at a time. All arithmetic is in units of ``q.k`` until a scale is
applied, so that every protocol shares the same products (`LayerView`).
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np

from ghostkv.stages.historical.view import LayerView


@dataclass(frozen=True)
class Protocol:
    """Which faults are put right; all False is the historical protocol, all True the lab's own."""

    true_qk: bool = False
    model_scale: bool = False
    query_norm: bool = False
    measured_margin: bool = False
    free_theta: bool = False
    relative: bool = False
    long_context: bool = False
    keep_recent: bool = False
    fitted_codec: bool = False

    def switched(self, knob: str) -> Protocol:
        """The protocol with one knob turned; a relative rule has no use for the old range of theta, so the
        range goes with it."""
        turned = replace(self, **{knob: not getattr(self, knob)})
        return replace(turned, relative=False) if knob == "free_theta" and not turned.free_theta else turned


HISTORICAL = Protocol()
KNOBS = tuple(field.name for field in fields(Protocol))
CORRECT = Protocol(**dict.fromkeys(KNOBS, True))

# What was wrong, and what is done instead.
REASONS = {
    "true_qk": (
        "Queries and keys were rebuilt from hidden states, without the layer norm and without rotary positions",
        "queries and keys as attention reads them",
    ),
    "model_scale": (
        "The sketched similarity was divided by sqrt(m), the exact score by sqrt(head_dim), so m = 8 "
        "inflated scores 2.8 times",
        "both carry the model's own scale",
    ),
    "query_norm": (
        "The cluster radius was added to a score without the factor ||q||, so it bounded nothing",
        "Cauchy-Schwarz: scale ||q|| radius",
    ),
    "measured_margin": (
        "epsilon = sigma = 0.05 stood for errors of several score units",
        "the residual norm of each key, measured when its record is written, times ||q||",
    ),
    "free_theta": (
        "theta was searched between 0.05 and 0.95, whatever the scores",
        "any theta, chosen per head",
    ),
    "relative": (
        "One absolute theta served queries whose scores lie tens of units apart",
        "distance from the query's own k-th best estimate, in margins",
    ),
    "long_context": (
        "Prompts of 54-73 tokens with the top 32 called relevant: half of all keys, so even an oracle "
        "eliminates less than half",
        "contexts of thousands of tokens, where 32 keys are one in a hundred",
    ),
    "keep_recent": (
        "Sinks and recent tokens had to pass the threshold like any other key",
        "4 sinks and 64 recent tokens stay exact; elimination counts cold keys only",
    ),
    "fitted_codec": (
        "A random projection spends its bytes on directions that no query looks at",
        "the query-aware transform code, fitted on codec texts",
    ),
}


@dataclass(frozen=True)
class Constants:
    """Numbers of the historical protocol and of the one that replaces it."""

    dims: int  # rows m of the projection
    epsilon: float  # what stood for the sketch error
    sigma: float  # what stood for the anchor error
    top_k: int  # keys called relevant
    sinks: int  # like `hot`, kept exact where `keep_recent` is on
    hot: int


@dataclass(frozen=True)
class ProtocolOutcome:
    """What a protocol does to one layer of one text."""

    relevant: np.ndarray  # [H, Q * k]: statistic of the exact top-k keys, infinite where they are kept
    # [H, cold keys of all queries]: statistic of the keys that may be eliminated; eliminated below theta.
    cold: np.ndarray
    violations: np.ndarray  # [H]: cold keys whose exact score exceeds their upper bound
    # [2, H]: rank correlation of estimate and exact score: centred (Spearman) and not (historical).
    ranks: np.ndarray
    oracle: float  # elimination of an oracle that keeps the top-k and no more


def follow(view: LayerView, protocol: Protocol, constants: Constants, codec: str) -> ProtocolOutcome:
    """Run one protocol over one layer of one text; it reads the estimates in `view` that go by the name `codec`."""
    scale = view.scale if protocol.model_scale else constants.dims**-0.5
    exact, estimate = view.exact * np.float32(view.scale), view.estimates[codec] * np.float32(scale)
    if protocol.measured_margin:
        margin = view.margins[codec] * np.float32(scale)
    else:
        margin = np.full_like(estimate, constants.epsilon + constants.sigma)
    reach = view.norms[..., None] if protocol.query_norm else np.float32(1.0)
    cluster = (view.anchors + reach * view.radius[:, None]) * np.float32(view.scale)
    upper = np.minimum(estimate + margin, cluster)
    cold = view.cold(constants.sinks, constants.hot) if protocol.keep_recent else view.visible
    statistic = upper
    if protocol.relative:
        known = np.where(cold, estimate, exact)
        statistic = _in_margins(upper, margin, known, view.visible, constants.top_k)
    top = view.top(constants.top_k)
    relevant = np.take_along_axis(np.where(cold, statistic, np.inf), top, axis=-1)
    slack = 1e-4 * (1.0 + np.abs(exact))
    return ProtocolOutcome(
        relevant=relevant.reshape(len(exact), -1),
        cold=statistic[:, cold],
        violations=(~(exact <= upper + slack) & cold).sum(axis=(1, 2)),
        ranks=view.rank_correlations(codec),
        oracle=_oracle(top, cold),
    )


def _in_margins(
    upper: np.ndarray, margin: np.ndarray, known: np.ndarray, visible: np.ndarray, top_k: int
) -> np.ndarray:
    """(estimate - tau) / margin, tau the k-th best of what is known: estimates of cold keys, exact scores of
    kept ones. At -1 the upper bound is below tau. Where the margin is infinite nothing is eliminated."""
    k = min(top_k, int(visible.sum(axis=1).min()))
    tau = -np.partition(np.where(visible, -known, np.inf), k - 1, axis=-1)[..., k - 1, None]
    return np.where(np.isfinite(margin), (upper - tau) / margin - 1, np.inf)


def _oracle(top: np.ndarray, cold: np.ndarray) -> float:
    total = cold.sum() * len(top)
    kept = np.take_along_axis(np.broadcast_to(cold, (len(top), *cold.shape)), top, axis=-1).sum()
    return float(1.0 - kept / total) if total else 0.0


def pool(outcomes: list[ProtocolOutcome]) -> ProtocolOutcome:
    """All texts of one layer together."""
    weights = np.array([outcome.cold.shape[1] for outcome in outcomes], float)
    total = weights.sum()
    return ProtocolOutcome(
        relevant=np.concatenate([outcome.relevant for outcome in outcomes], axis=1),
        cold=np.concatenate([outcome.cold for outcome in outcomes], axis=1),
        violations=np.sum([outcome.violations for outcome in outcomes], axis=0),
        ranks=np.mean([outcome.ranks for outcome in outcomes], axis=0),
        oracle=float(weights @ [outcome.oracle for outcome in outcomes] / total) if total else 0.0,
    )


def at_thetas(outcome: ProtocolOutcome, thetas: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Elimination and FER of each head at each theta, shape [H, thetas]: counting in sorted statistics."""

    def share(statistic: np.ndarray) -> np.ndarray:
        ordered = np.sort(statistic, axis=1)
        counts = np.stack([np.searchsorted(row, thetas, "left") for row in ordered])
        return counts / max(statistic.shape[1], 1)

    return share(outcome.cold), share(outcome.relevant)


def best(outcome: ProtocolOutcome, target: float) -> tuple[np.ndarray, np.ndarray]:
    """The most that any theta eliminates at FER <= target, with hindsight: elimination and FER of each head,
    shape [H].

    The largest such theta is the statistic of the first relevant key that may not be lost.
    """
    allowed = int(np.floor(target * outcome.relevant.shape[1]))
    theta = np.partition(outcome.relevant, allowed, axis=1)[:, allowed, None]
    lost = (outcome.relevant < theta).mean(axis=1)
    return (outcome.cold < theta).sum(axis=1) / max(outcome.cold.shape[1], 1), lost
