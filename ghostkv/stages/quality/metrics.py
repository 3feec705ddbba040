"""How far one model's next-token distributions lie from another's: KL, top-1 agreement, log-likelihood.

The gates are the Kullback-Leibler divergence and the agreement of the most probable token; both compare the
sparse model with the dense one at the same position of the same text. Perplexity compares each with the text
and can improve when attention is damaged, so it is reported and decides nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from ghostkv.files.compiled import njit

# Written where a position has no next token: the text ends there.
NO_TOKEN = -1


@dataclass(frozen=True)
class Divergence:
    """Per position, arrays of shape [positions]."""

    kl: np.ndarray  # float64: ``KL(dense || sparse)`` in nats, not below 0
    agree: np.ndarray  # bool: both have the same most probable token (the lower id wins a tie)
    # float64: negative log-likelihood of the text's next token, nats; NaN where the text ends.
    dense_nll: np.ndarray
    sparse_nll: np.ndarray
    max_logit_difference: np.ndarray  # float64: largest ``|dense - sparse|`` over the vocabulary
    dense_entropy: np.ndarray  # float64: entropy of the dense distribution, nats
    dense_margin: np.ndarray  # float64: log-probability of the dense model's first choice over its second
    dense_top: np.ndarray  # int64: most probable tokens
    sparse_top: np.ndarray

    def columns(self) -> dict[str, np.ndarray]:
        """Every array by its name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def divergence(dense: np.ndarray, sparse: np.ndarray, next_tokens: np.ndarray) -> Divergence:
    """Compare the logits of two models, position by position.

    Parameters
    ----------
    dense, sparse : ndarray of float32, shape [positions, vocabulary]
        Logits, finite.
    next_tokens : ndarray of int64, shape [positions]
        The text's next token; `NO_TOKEN` where the text ends.

    Raises
    ------
    ValueError
        Shapes differ, or a logit is not finite: a comparison would be meaningless.
    """
    dense, sparse = (np.ascontiguousarray(logits, np.float32) for logits in (dense, sparse))
    next_tokens = np.asarray(next_tokens, np.int64)
    if dense.shape != sparse.shape or dense.ndim != 2 or next_tokens.shape != dense.shape[:1]:
        raise ValueError(
            f"logits of shapes {dense.shape} and {sparse.shape} with {next_tokens.shape} next tokens cannot be compared"
        )
    if dense.shape[1] < 2 or next_tokens.max(initial=0) >= dense.shape[1]:
        raise ValueError(f"a vocabulary of {dense.shape[1]} does not hold the next tokens")
    found = np.empty((len(dense), 6))
    tops = np.empty((len(dense), 2), np.int64)
    _compare(dense, sparse, next_tokens, found, tops)
    if not np.isfinite(found[:, 0]).all():
        row = int(np.flatnonzero(~np.isfinite(found[:, 0]))[0])
        raise ValueError(f"position {row}: a logit is not finite, so the forward pass itself failed")
    kl, dense_nll, sparse_nll, difference, entropy, margin = found.T
    return Divergence(
        np.maximum(kl, 0.0), tops[:, 0] == tops[:, 1], dense_nll, sparse_nll, difference, entropy, margin,
        tops[:, 0], tops[:, 1],
    )  # fmt: skip


@njit(cache=True, nogil=True, error_model="numpy")
def _compare(dense, sparse, next_tokens, out, tops):
    """Two passes a row: log-sum-exps and first choices, then what is a mean under the dense distribution.

    Logits are taken relative to the row's largest, and every sum is in float64: a divergence of 1e-7 is the
    difference of terms near 1.
    """
    for row in range(dense.shape[0]):
        d, s = dense[row], sparse[row]
        first, second, best = 0, -np.inf, 0
        for token in range(1, d.size):
            if d[token] > d[first]:
                second = d[first]
                first = token
            elif d[token] > second:
                second = d[token]
            if s[token] > s[best]:
                best = token
        d_peak, s_peak = np.float64(d[first]), np.float64(s[best])
        d_sum, s_sum, shift, spread, largest = 0.0, 0.0, 0.0, 0.0, 0.0
        for token in range(d.size):
            x, y = np.float64(d[token]) - d_peak, np.float64(s[token]) - s_peak
            weight = np.exp(x)
            d_sum += weight
            s_sum += np.exp(y)
            shift += weight * (x - y)
            spread += weight * x
            largest = max(largest, abs(np.float64(d[token]) - np.float64(s[token])))
        d_log, s_log = np.log(d_sum), np.log(s_sum)
        out[row, 0] = shift / d_sum - d_log + s_log
        token = next_tokens[row]
        out[row, 1] = d_log - (np.float64(d[token]) - d_peak) if token >= 0 else np.nan
        out[row, 2] = s_log - (np.float64(s[token]) - s_peak) if token >= 0 else np.nan
        out[row, 3] = largest
        out[row, 4] = d_log - spread / d_sum
        out[row, 5] = d_peak - second
        tops[row, 0], tops[row, 1] = first, best
