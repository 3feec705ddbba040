"""Anchors: what is kept of a cluster of keys, and the largest score that any of its members can have.

Keys are seen from the codec's frame, where ``q.k = q.mu + z.y``. For the members ``y`` of a cluster around ``c``

- ball: ``z.y <= z.c + ||z|| r`` with ``r >= ||y - c||`` (Cauchy-Schwarz);
- cone: ``z.y <= ||z|| L cos(max(0, angle(z, c) - alpha))`` with the widest angle and the extreme norms of members;
- box: ``z.y <= z.c + sum_j |z_j| h_j`` with ``h_j >= |y_j - c_j|``, Quest's bound (Tang et al. 2024) in the codec's frame.

All bound the members' *exact* scores, so a cluster below a threshold holds no key above it, whatever its records say.
Everything stored is rounded outwards; docs/hierarchy.md counts its bytes.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from ghostkv.codecs.base import ELEMENT_BYTES
from ghostkv.codecs.nested import Nested
from ghostkv.elimination.attention import cap
from ghostkv.elimination.bounds import score_slack

BOUNDS = ("ball", "cone", "box", "wide")
# Level of the nested code that centres are written with: three levels, 24 bytes at head_dim 64.
CENTRE_LEVEL = 2
# One byte counts steps of this ratio below the largest value of the block; beyond its 254 steps all are equal.
_BYTE_GROWTH, _BYTE_STEPS = 1.02, 254
# Half-widths take four bits each, steps of this ratio below the cluster's own scale.
_HALF_GROWTH, _HALF_STEPS = 1.2, 15
# Relative slack of float64 arithmetic on stored values, with room to spare.
_SLACK = 1.0 + 2.0**-18
# The arccosine of a rounded cosine is off by at most 2e-8.
_ANGLE_SLACK = 1e-6


@dataclass(frozen=True)
class Anchors:
    """Anchors of many clusters, as read back; what a kind does not store is infinite."""

    centre: np.ndarray  # float64, shape [clusters, dims]
    half: np.ndarray  # float64, shape [clusters, dims]: half-widths of the box around the centre
    radius: np.ndarray  # float64, shape [clusters]
    angle: np.ndarray  # float64, shape [clusters]: widest angle between a member and the centre
    shortest: np.ndarray  # float64, shape [clusters]: least norm of a member in the frame
    longest: np.ndarray  # float64, shape [clusters]: largest of them
    # float64, shape [clusters]: largest norm of a member and of the codec's mean, which the rounding of scores is
    # derived from. One number a block would do; it is not counted.
    key_norm: np.ndarray

    def __len__(self) -> int:
        return len(self.centre)

    @classmethod
    def concatenate(cls, parts: list[Anchors]) -> Anchors:
        return cls(*(np.concatenate([getattr(part, each.name) for part in parts]) for each in fields(cls)))


def anchor_bytes(codec: Nested, bound: str) -> float:
    """Bytes of one anchor: centre, and what its bound needs."""
    dims = len(codec.mean_)
    centre = float(sum(codec.levels[: CENTRE_LEVEL + 1]))
    return {
        "ball": centre + 1,
        "cone": centre + 3,
        # Four bits a half-width, their scale, and the radius of the ball, whose bound holds as well.
        "box": centre + dims / 2 + 2,
        # Both corners in float16.
        "wide": float(2 * ELEMENT_BYTES * dims),
    }[bound]


def write(codec: Nested, keys: np.ndarray, owner: np.ndarray, bound: str) -> Anchors:
    """Anchors of the clusters of a block of keys.

    Parameters
    ----------
    codec : Nested
        Fitted; any frame is sound.
    keys : ndarray, shape [keys, head_dim]
    owner : ndarray of int64, shape [keys]
        Cluster of each key, numbered without gaps.
    bound : str
        One of `BOUNDS`.
    """
    keys = keys.astype(np.float64)
    points = (keys - codec.mean_) @ codec.encoder_.T
    order = np.argsort(owner, kind="stable")
    count = int(owner.max()) + 1 if len(owner) else 0
    starts = np.searchsorted(owner[order], np.arange(count))

    def extreme(ufunc: np.ufunc, values: np.ndarray) -> np.ndarray:
        return ufunc.reduceat(values[order], starts, axis=0)

    norm = np.linalg.norm(codec.mean_) + extreme(np.maximum, np.linalg.norm(keys, axis=1))
    low, high = extreme(np.minimum, points), extreme(np.maximum, points)
    nothing, flat = np.full(count, np.inf), np.full(points.shape[1], np.inf)
    empty = dict(half=np.broadcast_to(flat, low.shape), radius=nothing, angle=nothing, shortest=nothing)
    if bound == "wide":
        low, high = _half_precision(low, -np.inf), _half_precision(high, np.inf)
        middle = (low + high) / 2
        half = np.maximum(high - middle, middle - low) * _SLACK
        return Anchors(**{**empty, "centre": middle, "half": half, "longest": nothing, "key_norm": norm})
    size = np.bincount(owner, minlength=count)[:, None]
    middle = np.add.reduceat(points[order], starts, axis=0) / size if bound != "box" else (low + high) / 2
    tree = codec.tree_
    centre = tree.rebuild(tree.codes(middle), codec.depths(CENTRE_LEVEL)).astype(np.float64)
    away = points - centre[owner]
    found = {**empty, "centre": centre, "longest": nothing, "key_norm": norm}
    if bound == "cone":
        lengths = np.linalg.norm(points, axis=1)
        dot = np.einsum("kd,kd->k", points, centre[owner])
        angle = extreme(np.maximum, _angles(dot, lengths * np.linalg.norm(centre, axis=1)[owner]))
        found["angle"] = _byte_up(angle + _ANGLE_SLACK)
        found["longest"] = _byte_up(extreme(np.maximum, lengths))
        # Stored as the share of the longest norm that is missing, in a byte: rounded down.
        short = extreme(np.minimum, lengths)
        found["shortest"] = np.floor(255 * np.minimum(short / np.maximum(found["longest"], 1e-300), 1)) / 255
        found["shortest"] = found["shortest"] * found["longest"] / _SLACK
        return Anchors(**found)
    found["radius"] = _byte_up(extreme(np.maximum, np.linalg.norm(away, axis=1)))
    if bound == "box":
        found["half"] = _nibbles_up(extreme(np.maximum, np.abs(away)))
    return Anchors(**found)


def upper_bounds(
    anchors: Anchors, codec: Nested, queries: np.ndarray, scale: float, softcap: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Score of each centre, and the largest score of any member.

    Parameters
    ----------
    codec : Nested
        The one that wrote them.
    queries : ndarray, shape [queries, head_dim]

    Returns
    -------
    tuple of ndarray of float32, each of shape [queries, clusters]
        The second holds in real arithmetic and for any float32 evaluation of the score, and is never rounded down.
    """
    # The score of the opposite query at the opposite scale: an upper bound stays one.
    exact, scale = queries.astype(np.float64) * (1.0 if scale >= 0 else -1.0), abs(scale)
    z, offset = exact @ codec.decoder_, (exact @ codec.mean_)[:, None]
    length = np.linalg.norm(z, axis=1)[:, None] * _SLACK
    centre = z @ anchors.centre.T
    reach = np.full(centre.shape, np.inf)
    if np.isfinite(anchors.radius).any():
        reach = length * anchors.radius
    if np.isfinite(anchors.half).any():
        reach = np.minimum(reach, np.abs(z) @ anchors.half.T)
    upper = centre + reach
    if np.isfinite(anchors.angle).any():
        upper = np.minimum(upper, _cone(anchors, centre, length))
    slack = score_slack(queries, 2 * anchors.key_norm, scale, queries.shape[1])
    middle, upper = scale * (offset + centre), scale * (offset + upper) + slack
    with np.errstate(over="ignore"):
        middle, upper = middle.astype(np.float32), upper.astype(np.float32)
    upper = np.nextafter(np.where(np.isnan(upper), np.inf, upper), np.float32(np.inf))
    if softcap:
        middle, upper = cap(middle, softcap), cap(upper, softcap) + np.float32(softcap * 2.0**-20)
    return np.nan_to_num(middle, nan=-np.inf, posinf=np.inf, neginf=-np.inf), upper


def _cone(anchors: Anchors, dot: np.ndarray, length: np.ndarray) -> np.ndarray:
    # Without the slack of the length, which would widen the angle and so lower the bound.
    between = _angles(dot, length / _SLACK * np.linalg.norm(anchors.centre, axis=1))
    near = np.cos(np.maximum(between - anchors.angle - _ANGLE_SLACK, 0.0))
    # A zero vector has no angle; its members' norms bound them.
    near = np.where(np.linalg.norm(anchors.centre, axis=1) > 0, near, 1.0) + _ANGLE_SLACK**2
    return length * np.where(near > 0, anchors.longest, anchors.shortest) * near


def _angles(dot: np.ndarray, product: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.arccos(np.clip(np.where(product > 0, dot / product, 0.0), -1.0, 1.0))


def _byte_up(values: np.ndarray) -> np.ndarray:
    """What one byte would say of nonnegative values: steps below the largest, rounded up."""
    top = values.max(initial=0.0) * _SLACK
    with np.errstate(divide="ignore", invalid="ignore"):
        steps = np.floor(np.log(top / values) / np.log(_BYTE_GROWTH) - 1e-9)
    steps = np.clip(np.nan_to_num(steps, nan=0.0, posinf=_BYTE_STEPS), 0, _BYTE_STEPS)
    return np.maximum(top * _BYTE_GROWTH**-steps, values) * _SLACK


def _nibbles_up(half: np.ndarray) -> np.ndarray:
    """What four bits an entry and a byte a row would say of nonnegative half-widths, rounded up.

    The columns' means (a constant of the block) say how wide a box usually is in each coordinate.
    """
    usual = np.maximum(half.mean(axis=0), 1e-30)
    relative = half / usual
    scale = _byte_up(relative.max(axis=1))[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        steps = np.floor(np.log(scale / relative) / np.log(_HALF_GROWTH) - 1e-9)
    steps = np.clip(np.nan_to_num(steps, nan=0.0, posinf=_HALF_STEPS), 0, _HALF_STEPS)
    return np.maximum(scale * usual * _HALF_GROWTH**-steps, half) * _SLACK


def _half_precision(values: np.ndarray, towards: float) -> np.ndarray:
    """Float64 to float16, never away from `towards`."""
    with np.errstate(over="ignore"):
        narrow = values.astype(np.float16)
    wrong = narrow < values if towards > 0 else narrow > values
    narrow = np.where(wrong, np.nextafter(narrow, np.float16(towards)), narrow)
    return narrow.astype(np.float64)
