"""Products of one layer of one text that every protocol of the historical stage shares."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from scipy.stats import rankdata

from ghostkv.captures.capture_files import LayerCapture
from ghostkv.codecs import Codec
from ghostkv.elimination.attention import cold_range

# Neighbouring keys that share an anchor (their mean) and a radius.
CLUSTER = 8
# Rank correlation needs no more keys than this.
_RANKED_KEYS = 512


@dataclass(frozen=True)
class LayerView:
    """One layer of one text, in products that every protocol shares; H heads, Q queries, N keys, all float32."""

    scale: float  # the model's own. A soft cap is left out: it changes no order and no violation.
    positions: np.ndarray  # int [Q]: token index of each query
    first: np.ndarray  # int [Q]: the first key that it sees
    exact: np.ndarray  # [H, Q, N]: ``q.k``
    estimates: dict[str, np.ndarray]  # by codec [H, Q, N]: of ``q.k``
    margins: dict[
        str, np.ndarray
    ]  # likewise: ``||W^-T q|| rho``, the largest error that an estimate can have
    anchors: np.ndarray  # [H, Q, N]: ``q.a``, a the mean of the key's cluster
    radius: np.ndarray  # [H, N]: largest distance of a key of the cluster from its anchor
    norms: np.ndarray  # [H, Q]: ``||q||``
    _known: dict = field(default_factory=dict, repr=False)

    @property
    def visible(self) -> np.ndarray:
        """Keys that each query sees, bool [Q, N]."""
        return cold_range(self.positions, self.first, 0, 0).seen(self.exact.shape[-1])

    def cold(self, sinks: int, hot: int) -> np.ndarray:
        """Keys that may be eliminated, bool [Q, N]."""
        return cold_range(self.positions, self.first, sinks, hot).mask(self.exact.shape[-1])

    def top(self, k: int) -> np.ndarray:
        """The exact top-k keys of every query, indices of shape [H, Q, k]; k is cut to what the first query
        sees."""
        if ("top", k) not in self._known:
            hidden = np.where(self.visible, self.exact, -np.inf)
            cut = min(k, int(self.visible.sum(axis=1).min()))
            self._known["top", k] = np.argpartition(-hidden, cut - 1, axis=-1)[..., :cut]
        return self._known["top", k]

    def rank_correlations(self, codec: str) -> np.ndarray:
        """Mean over queries of the rank correlation of estimate and exact score, over keys that all queries
        see, shape [2, H]: centred (Spearman), and not centred (as the predecessor had it)."""
        if ("ranks", codec) not in self._known:
            start, stop = int(self.first.max()), int(self.positions.min()) + 1
            keys = slice(start, stop, -(-(stop - start) // _RANKED_KEYS))
            a, b = (rankdata(x[..., keys], axis=-1) for x in (self.estimates[codec], self.exact))
            mean = (a.shape[-1] + 1) / 2
            self._known["ranks", codec] = np.stack([_cosine(a - mean, b - mean), _cosine(a, b)])
        return self._known["ranks", codec]


def _cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return ((a * b).sum(-1) / np.sqrt((a * a).sum(-1) * (b * b).sum(-1))).mean(axis=-1)


def gaussian_projection(dims: int, width: int, seed: int) -> np.ndarray:
    """P with entries N(0, 1/m), shape [m, width]: one for all layers and heads."""
    return np.random.default_rng(seed).normal(0.0, dims**-0.5, (dims, width)).astype(np.float32)


def see(
    capture: LayerCapture, projections: dict[str, np.ndarray], codecs: dict[str, list[Codec]]
) -> LayerView:
    """The products of one layer of one text.

    Gaussian projections, [m, head_dim] by name, have the margin ``||q|| ||k - P^T P k||``; fitted codecs, by name,
    are one for each KV head.
    """
    group = capture.group
    keys, queries = capture.keys.astype(np.float32), capture.queries.astype(np.float32)
    grouped = queries.reshape(capture.kv_heads, -1, queries.shape[-1])
    heads = (capture.heads, len(capture.positions), capture.tokens)
    norms = np.linalg.norm(queries, axis=-1)
    estimates, margins = {}, {}
    for name, p in projections.items():
        sketched = keys @ p.T
        estimates[name] = ((grouped @ p.T) @ sketched.swapaxes(1, 2)).reshape(heads)
        rho = np.linalg.norm(keys - sketched @ p, axis=-1)
        margins[name] = norms[..., None] * np.repeat(rho, group, axis=0)[:, None]
    for name, fitted in codecs.items():
        pairs = [_coded(codec, *tensors) for codec, *tensors in zip(fitted, grouped, keys, strict=True)]
        estimates[name], margins[name] = (
            np.concatenate(part).reshape(heads) for part in zip(*pairs, strict=True)
        )
    anchors, radius = _clusters(keys)
    return LayerView(
        scale=capture.scale,
        positions=capture.positions.astype(np.int64),
        first=capture.first_visible().astype(np.int64),
        exact=(grouped @ keys.swapaxes(1, 2)).reshape(heads),
        estimates=estimates,
        margins=margins,
        anchors=np.repeat(grouped @ anchors.swapaxes(1, 2), CLUSTER, axis=-1)[..., : heads[2]].reshape(heads),
        radius=np.repeat(np.repeat(radius, CLUSTER, axis=-1)[:, : heads[2]], group, axis=0),
        norms=norms,
    )


def _coded(codec: Codec, queries: np.ndarray, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    decoded, projected = codec.decode(codec.encode(keys)), codec.project(queries)
    return codec.estimate(projected, decoded, 1.0), codec.margins(projected, decoded, 1.0)


def _clusters(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and radius of runs of `CLUSTER` keys, shapes [kv_heads, clusters, head_dim] and [kv_heads,
    clusters]."""
    # The last run repeats its last key, which moves its mean but stays within its radius.
    short = -keys.shape[1] % CLUSTER
    runs = np.concatenate([keys, np.repeat(keys[:, -1:], short, axis=1)], axis=1)
    runs = runs.reshape(keys.shape[0], -1, CLUSTER, keys.shape[2])
    anchors = runs.mean(axis=2)
    return anchors, np.linalg.norm(runs - anchors[:, :, None], axis=-1).max(axis=-1)
