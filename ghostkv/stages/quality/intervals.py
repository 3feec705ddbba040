"""How sure a mean over positions of a few texts is: a bootstrap of documents and of blocks within them.

Neighbouring positions of one text resemble each other, so positions are not drawn one by one but in blocks of
consecutive ones (Kuensch 1989), and documents before them where there is more than one, whatever their domains. Every
policy is measured on the same positions, so all are drawn together. With one document the interval speaks of it alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ghostkv.files.io import stable_seed

LEVEL = 0.95


def block_sums(values: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Sums over blocks of consecutive positions.

    Parameters
    ----------
    values : ndarray, shape [..., positions]
        NaN counts as absent.
    length : int
        Positions per block; the last block may be shorter.

    Returns
    -------
    sums, counts : ndarray of float64, shape [..., blocks]
    """
    present = ~np.isnan(values)
    edges = np.arange(0, values.shape[-1], length)
    sums = np.add.reduceat(np.where(present, values, 0.0), edges, axis=-1, dtype=np.float64)
    return sums, np.add.reduceat(present.astype(np.float64), edges, axis=-1)


@dataclass(frozen=True)
class Draws:
    """Bootstrap replicates of the blocks of all documents."""

    # float64, shape [replicates, blocks]: how often each block is drawn; blocks of all documents side by side.
    weights: np.ndarray

    @classmethod
    def make(cls, blocks: Sequence[int], replicates: int, seed: int) -> Draws:
        """Draw documents, then blocks within each drawn document.

        Parameters
        ----------
        blocks : sequence of int
            Blocks of each document.
        """
        rng = np.random.default_rng(stable_seed("quality bootstrap", seed, *blocks))
        first = np.concatenate([[0], np.cumsum(blocks)]).astype(int)
        weights = np.zeros((replicates, first[-1]))
        drawn = rng.multinomial(len(blocks), np.full(len(blocks), 1 / len(blocks)), size=replicates)
        for number, size in enumerate(blocks):
            share = np.full(size, 1 / size)
            # A document drawn twice gives two independent draws of its blocks, which add to one of twice the size.
            weights[:, first[number] : first[number + 1]] = rng.multinomial(drawn[:, number] * size, share)
        return cls(weights)

    def means(self, sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """Mean of every replicate, shape [..., replicates], from sums and counts [..., blocks]; NaN without a count.

        NaN too where every replicate is the same draw, as with one block of one document: that they agree
        says nothing of how sure the mean is.
        """
        if (self.weights == self.weights[:1]).all():
            return np.full((*sums.shape[:-1], len(self.weights)), np.nan)
        total = counts @ self.weights.T
        return np.divide(sums @ self.weights.T, total, out=np.full(total.shape, np.nan), where=total > 0)


def span(replicates: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Percentile interval of replicates along the last axis; NaN where a replicate has no value.

    A replicate without a value is not passed over: it would be the ones that are hard to tell that go.
    """
    low, high = np.quantile(replicates, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=-1)
    return low, high


def at_bytes(ratios: np.ndarray, losses: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """A curve's loss at wanted bytes ratios, between its points straight in log bytes and log loss.

    Parameters
    ----------
    ratios : ndarray, shape [points], ascending
        Measured bytes ratios.
    losses : ndarray, shape [..., points]
        Losses there, positive.
    wanted : ndarray, shape [n]

    Returns
    -------
    ndarray, shape [..., n]
        NaN beyond the curve's ends: nothing is extrapolated.
    """
    ratios, losses, wanted = np.asarray(ratios, float), np.asarray(losses, float), np.atleast_1d(wanted)
    if len(ratios) < 2:
        hit = np.isclose(wanted, ratios[:1], rtol=1e-9) if len(ratios) else np.zeros(len(wanted), bool)
        return np.where(hit, losses[..., :1] if losses.size else np.nan, np.nan)
    right = np.clip(np.searchsorted(ratios, wanted), 1, len(ratios) - 1)
    x = np.log(wanted / ratios[right - 1]) / np.log(ratios[right] / ratios[right - 1])
    with np.errstate(divide="ignore"):
        height = np.log(losses)
    found = np.exp(height[..., right - 1] * (1 - x) + height[..., right] * x)
    return np.where((x >= -1e-9) & (x <= 1 + 1e-9), found, np.nan)
