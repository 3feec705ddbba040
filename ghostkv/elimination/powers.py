"""Bounds of exponentials of scores: what the dropped-mass certificate adds up."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ghostkv.elimination.truth import Truth

# Relative error of exp(x - top) in float32 for x - top > -87 (2^-24 * 87 from the subtraction, 3 ulp from exp), and
# what any term below that can be; the sums themselves are float64. Derived in docs/certificates.md.
EXP_SLACK, EXP_TINY = 2.0**-17, 2.0e-38


class Powers(NamedTuple):
    """Bounds of exponentials, computed once for all targets; float32."""

    # [group, queries]; what is subtracted before exponentials are taken: the largest of all lower bounds, so that
    # none overflows
    top: np.ndarray
    # [levels + 1, group, queries, keys]; of upper bounds, and of the middle between the bounds
    above: np.ndarray
    middle: np.ndarray
    below: np.ndarray  # [group, queries, keys]; of the lower bounds with K in full
    kept: np.ndarray  # float64 [group, queries]; of the exact keys, rounded down

    @classmethod
    def of(
        cls, lower: np.ndarray, upper: np.ndarray, truth: Truth, space: np.ndarray | None = None
    ) -> Powers:
        """Exponentials of bounds of shape [levels + 1, group, queries, keys].

        Parameters
        ----------
        space : ndarray of float32, shape [2, levels + 1, group, queries, keys], optional
            Where they go; fresh memory of that size costs as much as filling it.
        """
        space = np.empty((2, *lower.shape), np.float32) if space is None else space
        above, middle = space
        keys = lower.shape[-1]
        cold = truth.visible.mask(keys)
        exact = truth.visible.seen(keys) & ~cold
        low = np.where(exact, truth.low, -np.inf)
        # A lower bound whose exponential overflowed would count as infinite mass that is kept, and all could go.
        top = np.maximum(low.max(axis=-1), np.where(cold, lower[-1], -np.inf).max(axis=-1))
        with np.errstate(over="ignore", invalid="ignore", under="ignore"):
            for level in range(len(lower)):
                np.add(upper[level], lower[level], out=middle[level])
                middle[level] *= np.float32(0.5)
                for power, source in ((middle, middle), (above, upper)):
                    np.subtract(source[level], top[..., None], out=power[level])
                    np.exp(power[level], out=power[level])
            np.nan_to_num(middle, copy=False, nan=0.0, posinf=0.0)
            below = np.exp(lower[-1] - top[..., None]) * np.float32(1.0 - EXP_SLACK)
            kept = np.exp(low - top[..., None].astype(np.float64)).sum(axis=-1) * (1.0 - 2.0**-30)
        return cls(top=top, above=above, middle=middle, below=below, kept=kept)
