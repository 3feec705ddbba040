"""What runs in a model's seat, from a policy of the config and the files of earlier stages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from ghostkv.codecs.nested import Nested, level_bytes
from ghostkv.codecs.records import CodecSpec
from ghostkv.elimination.thresholds import calibrated_thetas
from ghostkv.files.errors import ConfigError
from ghostkv.quantised.by_name import cache_type
from ghostkv.runtime.certified import CertifiedMass
from ghostkv.runtime.deciders import Decider
from ghostkv.runtime.flat import calibrated_ratios, flat_heads
from ghostkv.runtime.ghost_decider import GhostFrames
from ghostkv.runtime.policy import Policy, ghost_policy
from ghostkv.runtime.policy_fit import fit_theta
from ghostkv.runtime.quantised import OverCache, WholeCache
from ghostkv.runtime.seat_fit import seated
from ghostkv.runtime.seated import OracleMass
from ghostkv.runtime.sources import Sources

if TYPE_CHECKING:
    from ghostkv.config.policies import (
        GhostPolicy,
        RecordPolicy,
        SomePolicy,
    )


def load_policy(
    policy: SomePolicy, sources: Sources, dense: Mapping[int, Iterable[int]] | None = None
) -> Policy:
    """Build what runs from a policy whose options are all decided (`ghostkv.config.resolved.resolve`).

    Parameters
    ----------
    dense : mapping of int to iterable of int, optional
        KV heads by layer that stay dense, of `dense_heads`, which is asked without it.

    Raises
    ------
    ConfigError
        An option is left open, or index and kept keys alone exceed a budget.
    TableError
        A file of an earlier stage is missing, or the frontier calibrated no such theta.
    """
    built = _built(policy, sources)
    return built.leaving_dense(_flat(built, policy, sources) if dense is None else dense)


def dense_heads(policy: SomePolicy, sources: Sources) -> dict[int, dict[int, float]]:
    """KV heads that stay dense under a policy that promises a mean loss of each head; raises as `load_policy`.

    Returns
    -------
    mapping of int to mapping of int to float
        Layer -> KV head -> the bytes ratio that elimination would have there, at least 1.
    """
    return _flat(_built(policy, sources), policy, sources) if policy.policy == "calibrated" else {}


def _flat(built: Policy, policy: SomePolicy, sources: Sources) -> dict[int, dict[int, float]]:
    # A budget for the whole model weighs heads itself.
    if policy.policy != "calibrated":
        return {}
    spec, fixed = sources.spec(policy), (policy.sinks, policy.hot, sources.start)
    return flat_heads(
        {
            layer: calibrated_ratios(
                sources.texts("threshold", layer), sources.fitted(layer, spec), decider.theta, *fixed
            )
            for layer, decider in built.deciders.items()
        }
    )


def _built(policy: SomePolicy, sources: Sources) -> Policy:
    _check_decided(policy)
    dense = tuple(sources.layers) if policy.policy == "full" else policy.dense_layers
    active, certificate = [layer for layer in sources.layers if layer not in dense], "none"
    match policy.policy:
        case "full":
            deciders, certificate = {}, "nothing is eliminated"
        case "identity":
            deciders, certificate = _ghosts(policy, sources, active, -np.inf), "nothing is eliminated"
        case "ghost":
            theta = fit_budgets([policy], sources)[0] if policy.theta is None else policy.theta
            deciders = _ghosts(policy, sources, active, theta, policy.compensate, per_key=True)
            if policy.cache != "fp16":
                held = cache_type(policy.cache)
                deciders = {layer: OverCache(decider, held) for layer, decider in deciders.items()}
        case "calibrated":
            goal = "relative_lse", policy.target_metric, policy.target
            thetas = calibrated_thetas(sources.points, sources.spec(policy), *goal)
            deciders = _ghosts(policy, sources, active, thetas, policy.compensate)
            certificate = f"calibrated: mean {policy.target_metric} <= {policy.target:g}, on average over exchangeable queries"
        case "certified_mass":
            fixed = policy.delta, policy.shares, policy.compensate
            deciders = {
                layer: CertifiedMass(_nested(sources, layer, policy.levels), *fixed) for layer in active
            }
            certificate = f"dropped mass <= {policy.delta:g} for every query"
        case "oracle_mass":
            deciders = {layer: OracleMass(policy.delta) for layer in active}
            certificate = f"dropped mass <= {policy.delta:g} for every query (exact scores)"
        case "quantised":
            deciders = {layer: WholeCache(cache_type(policy.cache)) for layer in active}
        case "selector":
            deciders = seated(policy, sources, active)
    return Policy(
        _name(policy), deciders, dense, policy.sinks, policy.hot, policy.prefill, policy.shared, certificate
    )


def _name(policy: SomePolicy) -> str:
    return policy.label or policy.policy


def _check_decided(policy: SomePolicy) -> None:
    names = ("sinks", "hot", "levels", "shares", "seed")
    undecided = [name for name in names if getattr(policy, name, name) is None]
    if undecided:
        raise ConfigError(
            f"policy {_name(policy)} leaves {', '.join(undecided)} to the config. Accepted: a policy whose options are decided.\n"
            "  Write: load_policy(resolve(policy, Config()), sources)   (ghostkv.config.resolved, ghostkv.config.experiment)"
        )


def fit_budgets(policies: Sequence[GhostPolicy], sources: Sources) -> list[float]:
    """The theta of every policy that names a bytes ratio; those that read the same records are fitted together."""
    alike: dict[tuple, list[float]] = {}
    for policy in policies:
        alike.setdefault(_reads(policy, sources), []).append(policy.ratio)
    found = {}
    for reads, ratios in alike.items():
        spec, dense, sinks, hot, cache = reads
        layers = (
            (
                sources.texts("threshold", layer),
                None if layer in dense else sources.fitted(layer, spec),
            )
            for layer in sources.layers
        )
        # Bytes are GQA-true whether heads share survivors or not: the union is read.
        found[reads] = fit_theta(
            layers, sorted(set(ratios)), sinks=sinks, hot=hot, start=sources.start, cache=cache_type(cache)
        )
    return [found[_reads(policy, sources)][policy.ratio] for policy in policies]


def _reads(policy: GhostPolicy, sources: Sources) -> tuple:
    return sources.spec(policy), policy.dense_layers, policy.sinks, policy.hot, policy.cache


def _ghosts(
    policy: RecordPolicy, sources: Sources, active: Sequence[int], theta: float | Mapping[int, np.ndarray],
    compensate: bool = True, per_key: bool = False,
) -> Mapping[int, Decider]:  # fmt: skip
    frames = {layer: _frames(sources, layer, sources.spec(policy)) for layer in active}
    return ghost_policy(frames, theta, sources.heads, compensate, per_key, shared=policy.shared).deciders


@cache
def _frames(sources: Sources, layer: int, spec: CodecSpec) -> GhostFrames:
    """The same object for all policies that read the same records, so that they share those of a context."""
    return GhostFrames.of(sources.fitted(layer, spec))


@cache
def _nested(sources: Sources, layer: int, bits: tuple[float, ...]) -> list[Nested]:
    captures = sources.texts("codec", layer)
    width = captures[0].keys.shape[2]
    levels = level_bytes(bits, width)
    return [
        Nested.of(levels).fit(
            np.concatenate([one.keys[head] for one in captures]),
            np.concatenate([one.group_queries(head).reshape(-1, width) for one in captures]),
        )
        for head in range(captures[0].kv_heads)
    ]
