"""Bounds that other methods keep of keys: low-bit channels, blocks of INT8, boxes around pages, balls and cones around clusters."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from ghostkv.codecs.base import ELEMENT_BYTES
from ghostkv.elimination.bounds import Bounds, from_estimates, score_slack

# Keys that are clustered together: consecutive ones.
_CLUSTERED = 8192


@dataclass
class LowBit:
    """Every channel in few bits, with the smaller of two margins.

    With ``h`` the channels' steps and ``e = k - k_hat``, both ``|q.e| <= sum |q_i| h_i * beta`` (box, L1) and ``|q.e|
    <= ||q h|| * rho`` (Cauchy-Schwarz) hold, where ``beta >= max |e_i| / h_i`` and ``rho >= ||e / h||`` are measured
    when a key is written and stored in a byte each, rounded up. Keys outside the calibrated range only have a larger
    beta and rho.
    """

    bits: int

    # One byte counts these shares of a step.
    _BETA: ClassVar[float] = 1 / 64
    _RHO: ClassVar[float] = 1 / 16

    @property
    def name(self) -> str:
        return f"low_bit_{self.bits}"

    @property
    def record_bytes(self) -> float:
        return self.bits * self.step_.size / 8 + 2

    def fit(self, keys: np.ndarray) -> LowBit:
        """Choose the range of each channel on calibration keys, shape [keys, head_dim]; returns self."""
        low, high = keys.min(axis=0).astype(np.float64), keys.max(axis=0).astype(np.float64)
        self.step_ = np.maximum(high - low, 1e-6) / (1 << self.bits)
        self.low_ = low
        return self

    def write(self, keys: np.ndarray) -> LowBit:
        keys = keys.astype(np.float64)
        cells = np.clip(np.floor((keys - self.low_) / self.step_), 0, (1 << self.bits) - 1)
        self.rebuilt_ = (self.low_ + (cells + 0.5) * self.step_).astype(np.float32)
        error = np.abs(keys - self.rebuilt_) / self.step_
        self.beta_ = _whole_steps(error.max(axis=1, initial=0.0), self._BETA)
        self.rho_ = _whole_steps(np.linalg.norm(error, axis=1), self._RHO)
        return self

    def bounds(self, queries: np.ndarray, scale: float) -> Bounds:
        wide = np.abs(queries.astype(np.float64)) * self.step_
        box = np.outer(wide.sum(axis=1), self.beta_)
        cauchy = np.outer(np.linalg.norm(wide, axis=1), self.rho_)
        norms = np.linalg.norm(self.rebuilt_.astype(np.float64), axis=1)
        key_norms = norms + self.step_.max() * np.minimum(self.rho_, self.beta_ * len(self.step_) ** 0.5)
        # Score and estimate are both float32 dot products.
        slack = score_slack(queries, norms + key_norms, scale, 2 * queries.shape[1])
        margin = abs(scale) * np.fmin(box, cauchy) * (1 + 1e-9) + slack
        return from_estimates((queries * np.float32(scale)) @ self.rebuilt_.T, margin)


@dataclass
class BlockInt8:
    """Every channel in 8 bits, with a scale of its own in each block of consecutive keys (arXiv 2605.20868).

    With h the steps of a key's block, ``|q.e| <= sum |q_i| h_i / 2``: a bound of the block, as nothing is stored of a key's
    own error. A key costs its codes and its share of the block's float32 scales and least values. That is the layout
    of the paper, where INT4 values add up to 288 of 512 bytes at head_dim 128; values are read in fp16 here.
    """

    block: int = 16
    name: ClassVar[str] = "block_int8"

    _LEVELS: ClassVar[int] = 255

    @property
    def record_bytes(self) -> float:
        return self.step_.shape[1] * (1 + 2 * np.dtype(np.float32).itemsize / self.block)

    def write(self, keys: np.ndarray) -> BlockInt8:
        keys = keys.astype(np.float64)
        starts = np.arange(0, len(keys), self.block)
        self.owner_ = np.arange(len(keys)) // self.block
        low = np.minimum.reduceat(keys, starts).astype(np.float32)
        # The scale as stored; where it is rounded down, the last level misses the greatest key by what the slack holds.
        self.step_ = ((np.maximum.reduceat(keys, starts) - low) / self._LEVELS).astype(np.float32)
        least, step = low.astype(np.float64)[self.owner_], self.step_.astype(np.float64)[self.owner_]
        with np.errstate(invalid="ignore", divide="ignore"):
            codes = np.where(step > 0, np.rint((keys - least) / step), 0.0)
        self.rebuilt_ = (least + np.clip(codes, 0, self._LEVELS) * step).astype(np.float32)
        # float32 rounds the scale, the least value and the rebuilt key: three roundings of no more than the largest of them.
        largest = np.maximum(np.abs(low), np.abs(low + self._LEVELS * self.step_))
        self.half_ = self.step_.astype(np.float64) / 2 + 4 * np.finfo(np.float32).eps * largest + 1e-30
        return self

    def bounds(self, queries: np.ndarray, scale: float) -> Bounds:
        q = np.abs(queries.astype(np.float64))
        norms = np.linalg.norm(self.rebuilt_.astype(np.float64), axis=1)
        key_norms = norms + np.linalg.norm(self.half_, axis=1)[self.owner_]
        slack = score_slack(queries, norms + key_norms, scale, 2 * queries.shape[1])
        margin = abs(scale) * (q @ self.half_.T)[:, self.owner_] * (1 + 1e-9) + slack
        return from_estimates((queries * np.float32(scale)) @ self.rebuilt_.T, margin)


@dataclass
class PageBoxes:
    """The least and greatest key of each page, channel by channel (Quest's upper bound, and its mirror image)."""

    page: int = 16
    name: ClassVar[str] = "page_box"

    @property
    def record_bytes(self) -> float:
        return 2 * ELEMENT_BYTES * self.low_.shape[1] / self.page

    def write(self, keys: np.ndarray) -> PageBoxes:
        starts = np.arange(0, len(keys), self.page)
        self.low_ = np.minimum.reduceat(keys, starts).astype(np.float64)
        self.high_ = np.maximum.reduceat(keys, starts).astype(np.float64)
        self.owner_ = np.arange(len(keys)) // self.page
        return self

    def bounds(self, queries: np.ndarray, scale: float) -> Bounds:
        q = queries.astype(np.float64) * scale
        rise, fall = np.maximum(q, 0.0), np.minimum(q, 0.0)
        corner = np.linalg.norm(np.maximum(np.abs(self.low_), np.abs(self.high_)), axis=1)
        slack = score_slack(queries, corner, scale, queries.shape[1])
        upper = rise @ self.high_.T + fall @ self.low_.T + slack
        lower = rise @ self.low_.T + fall @ self.high_.T - slack
        return Bounds(_narrow(lower, -np.inf)[:, self.owner_], _narrow(upper, np.inf)[:, self.owner_])


@dataclass
class Clusters:
    """Keys in clusters with a ball (``q.c +- ||q|| r``) or a cone (angles and norms) around each.

    The factor ``||q||`` of the ball is what the historical experiment left out. A key costs its cluster's id, and its
    share of the centroid, the radius or angle and the two norms.
    """

    kind: str = "ball"
    mean_size: int = 16
    rounds: int = 1
    seed: int = 0
    centre_: np.ndarray = field(default=None, repr=False)

    @property
    def name(self) -> str:
        return f"cluster_{self.kind}"

    @property
    def record_bytes(self) -> float:
        count, width = self.centre_.shape
        share = (ELEMENT_BYTES * width + (4 if self.kind == "ball" else 12)) * count / len(self.owner_)
        return share + (1 if count <= 256 else 2)

    def write(self, keys: np.ndarray) -> Clusters:
        exact = keys.astype(np.float64)
        points = keys.astype(np.float32)
        if self.kind == "cone":
            points = points / np.maximum(np.linalg.norm(points, axis=1, keepdims=True), 1e-30)
        self.centre_, self.owner_ = _lloyd(points, self.mean_size, self.rounds, self.seed)
        centre, count = self.centre_[self.owner_], len(self.centre_)
        norms = np.linalg.norm(exact, axis=1)
        self.longest_ = _extreme(np.maximum, norms, self.owner_, count, 0.0)
        if self.kind == "ball":
            self.radius_ = _extreme(
                np.maximum, np.linalg.norm(exact - centre, axis=1), self.owner_, count, 0.0
            )
        else:
            self.shortest_ = _extreme(np.minimum, norms, self.owner_, count, np.inf)
            angle = _angles(np.einsum("kd,kd->k", exact, centre), norms * np.linalg.norm(centre, axis=1))
            self.angle_ = _extreme(np.maximum, angle, self.owner_, count, 0.0)
        return self

    def bounds(self, queries: np.ndarray, scale: float) -> Bounds:
        # The score of the opposite query at the opposite scale: an upper bound stays one.
        q, scale = queries.astype(np.float64) * (1.0 if scale >= 0 else -1.0), abs(scale)
        norms = np.linalg.norm(q, axis=1)[:, None]
        slack = score_slack(queries, self.longest_ + np.linalg.norm(self.centre_, axis=1), scale, q.shape[1])
        dot = q @ self.centre_.T
        if self.kind == "ball":
            lower, upper = dot - norms * self.radius_, dot + norms * self.radius_
        else:
            between = _angles(dot, norms * np.linalg.norm(self.centre_, axis=1))
            # The arccosine of a rounded cosine is off by at most 2e-8; a microradian is ample.
            near = np.cos(np.maximum(between - self.angle_ - 1e-6, 0.0))
            far = np.cos(np.minimum(between + self.angle_ + 1e-6, np.pi))
            upper = norms * np.where(near > 0, self.longest_, self.shortest_) * near
            lower = norms * np.where(far > 0, self.shortest_, self.longest_) * far
        low, high = _narrow(scale * lower - slack, -np.inf), _narrow(scale * upper + slack, np.inf)
        return Bounds(low[:, self.owner_], high[:, self.owner_])


def _whole_steps(values: np.ndarray, step: float) -> np.ndarray:
    """Values as one byte would hold them: in whole steps, rounded up, infinite beyond 254."""
    steps = np.ceil(values * (1 + 1e-9) / step)
    return np.where(steps <= 254, steps * step, np.inf)


def _narrow(values: np.ndarray, towards: float) -> np.ndarray:
    """Float64 to float32, never away from `towards`; what is not a number bounds nothing."""
    with np.errstate(over="ignore"):
        narrow = values.astype(np.float32)
    return np.where(np.isnan(narrow), np.float32(towards), np.nextafter(narrow, np.float32(towards)))


def _extreme(better: np.ufunc, values: np.ndarray, owner: np.ndarray, count: int, start: float) -> np.ndarray:
    found = np.full(count, start)
    better.at(found, owner, values)
    return found


def _angles(dot: np.ndarray, product: np.ndarray) -> np.ndarray:
    """Angle whose cosine is dot / product; a right angle where a vector is zero."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.arccos(np.clip(np.where(product > 0, dot / product, 0.0), -1.0, 1.0))


def _lloyd(points: np.ndarray, mean_size: int, rounds: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A few rounds of Lloyd's algorithm; any assignment gives sound bounds, a better one tighter ones.

    Keys that lie far apart in the text share no cluster: distances of all keys from all centroids would be quadratic.
    """
    rng, centres, owners, before = np.random.default_rng(seed), [], [], 0
    for start in range(0, len(points), _CLUSTERED):
        centre, owner = _lloyd_block(points[start : start + _CLUSTERED], mean_size, rounds, rng)
        centres.append(centre)
        owners.append(owner + before)
        before += len(centre)
    # Centroids are stored as float16; radii are measured around what is stored.
    return np.concatenate(centres).astype(np.float16).astype(np.float64), np.concatenate(owners)


def _lloyd_block(
    points: np.ndarray, mean_size: int, rounds: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    count = max(1, len(points) // mean_size)
    centre = points[rng.choice(len(points), count, replace=False)].astype(np.float32)
    for step in range(rounds + 1):
        owner = np.argmax(points @ centre.T - 0.5 * (centre**2).sum(axis=1), axis=1)
        if step < rounds:
            size = np.bincount(owner, minlength=count)
            total = np.zeros_like(centre)
            np.add.at(total, owner, points)
            centre = np.where(size[:, None] > 0, total / np.maximum(size, 1)[:, None], centre).astype(
                np.float32
            )
    return centre, owner
