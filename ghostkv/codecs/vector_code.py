"""Vector quantisation of keys that are turned back to position 0, in the query-aware frame: the lab's codec of few bytes."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ghostkv.codecs.base import ELEMENT_BYTES, Codec
from ghostkv.codecs.codebooks import Codebooks
from ghostkv.codecs.rotation import Rotation
from ghostkv.codecs.whitened import Whitened

# Positions that each calibration query is seen from.
_VIEWS = 8
# Coordinates of less variance than this share of the water level are not written.
_BELOW = 0.5


@dataclass
class VectorCode(Whitened):
    """A key's position is known and costs no bits: the code says what is left once its turn (RoPE) is undone.

    Keys turned back to position 0 lie close to their mean, so few bytes tell them apart. Residual codebooks of 256
    centroids, one byte each, are fitted in the query-aware frame of the turned keys, where squared distance is expected squared
    score error. A record is read as a key at its position; frame and bound are then those of `Whitened`.
    """

    colour = "#a6761d"

    rotation_: Rotation = field(default=None, repr=False)
    # Of keys at position 0: mean [head_dim], and the frame of the coordinates that are written
    start_: np.ndarray = field(default=None, repr=False)
    into_: np.ndarray = field(default=None, repr=False)  # [written, head_dim]
    out_: np.ndarray = field(default=None, repr=False)  # [head_dim, written]
    codebooks_: Codebooks = field(default=None, repr=False)

    def _fit_code(self, keys: np.ndarray, queries: np.ndarray, positions: np.ndarray) -> None:
        rng = np.random.default_rng(self.seed)
        self.rotation_ = Rotation.fit(keys, positions)
        turned = self.rotation_.turn(keys, positions, back=True)
        # From a key at position 0, a query looks turned back by the key's position.
        views = [
            self.rotation_.turn(queries, rng.choice(positions, len(queries)), back=True)
            for _ in range(_VIEWS)
        ]
        frame = Whitened(self.code_bytes)
        frame.fit_frame(turned, np.concatenate(views))
        coordinates = (turned - frame.mean_) @ frame.encoder_.T
        variance = (coordinates**2).mean(axis=0)
        written = variance > _BELOW * water_level(variance, 8 * self.code_bytes)
        self.start_, self.into_, self.out_ = frame.mean_, frame.encoder_[written], frame.decoder_[:, written]
        self.codebooks_ = Codebooks.fit(coordinates[:, written], self.code_bytes, rng)

    def _code(self, keys: np.ndarray, positions: np.ndarray) -> np.ndarray:
        turned = self.rotation_.turn(keys, positions, back=True)
        return self.codebooks_.encode((turned - self.start_) @ self.into_.T)

    def _rebuild(self, codes: np.ndarray, positions: np.ndarray) -> np.ndarray:
        turned = self.start_ + self.codebooks_.rebuild(codes).astype(np.float64) @ self.out_.T
        keys = self.rotation_.turn(turned, positions)
        return ((keys - self.mean_) @ self.encoder_.T).astype(np.float32)

    def _pack(self, codes: np.ndarray) -> np.ndarray:
        return codes

    def _unpack(self, code: np.ndarray) -> np.ndarray:
        return code

    @property
    def constant_bytes(self) -> int:
        """Of what estimates read, in fp16: codebooks, the way out of their frame, the mean key and the frequencies."""
        numbers = self.codebooks_.centroids.size + self.out_.size + len(self.start_)
        return ELEMENT_BYTES * (numbers + len(self.rotation_.frequency))

    def arrays(self) -> dict[str, np.ndarray]:
        return {
            "mean": self.mean_,
            "encoder": self.encoder_,
            "decoder": self.decoder_,
            "metric": self.metric_,
            "rho_step": np.array([self.rho_step_]),
            "frequency": self.rotation_.frequency,
            "interleaved": np.array([self.rotation_.interleaved]),
            "start": self.start_,
            "into": self.into_,
            "out": self.out_,
            "centroids": self.codebooks_.centroids,
        }

    def load(self, arrays: dict[str, np.ndarray]) -> Codec:
        self.mean_, self.encoder_, self.decoder_ = arrays["mean"], arrays["encoder"], arrays["decoder"]
        self.metric_, self.rho_step_ = arrays["metric"], float(arrays["rho_step"][0])
        self.rotation_ = Rotation(arrays["frequency"], bool(arrays["interleaved"][0]))
        self.start_, self.into_, self.out_ = arrays["start"], arrays["into"], arrays["out"]
        self.codebooks_ = Codebooks(arrays["centroids"])
        return self


def water_level(variance: np.ndarray, bits: int) -> float:
    """Distortion that so many bits leave in every coordinate of more variance (Cover and Thomas 2006, section 10.3)."""
    ordered = np.log2(np.maximum(np.sort(variance)[::-1], 1e-300))
    # With the first n coordinates above the level, it takes the bits that bring all of them down to it.
    levels = (np.cumsum(ordered) - 2.0 * bits) / np.arange(1, len(ordered) + 1)
    above = np.append(ordered[1:], -np.inf) <= levels
    return float(2.0 ** levels[int(np.argmax(above))])
