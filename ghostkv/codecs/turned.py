"""Codecs of keys that are turned back to position 0."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ghostkv.codecs.base import ELEMENT_BYTES, Codec
from ghostkv.codecs.codebooks import Codebooks
from ghostkv.codecs.quantiser import UniformQuantiser
from ghostkv.codecs.rotation import Rotation
from ghostkv.codecs.whitened import Whitened

# Positions that each calibration query is seen from.
_VIEWS = 8


@dataclass
class Turned(Whitened):
    """A key's position is known and costs no bits: the code says what is left once its turn (RoPE) is undone.

    Keys turned back to position 0 lie close to their mean, so few bytes tell them apart (as KVQuant quantises keys before RoPE,
    Hooper et al. 2024). What is written are coordinates in the query-aware frame of the turned keys, where squared distance is
    expected squared score error. A record is read as a key at its position; frame and bound are then those of `Whitened`.
    """

    in_config = False

    rotation_: Rotation = field(default=None, repr=False)
    # Of keys at position 0: mean [head_dim], and the frame of the coordinates that are written
    start_: np.ndarray = field(default=None, repr=False)
    into_: np.ndarray = field(default=None, repr=False)  # [written, head_dim]
    out_: np.ndarray = field(default=None, repr=False)  # [head_dim, written]
    # What the coordinates are written with
    coder_: Codebooks | UniformQuantiser = field(default=None, repr=False)

    def _fit_code(
        self, keys: np.ndarray, queries: np.ndarray, positions: np.ndarray, asked: np.ndarray
    ) -> None:
        rng = np.random.default_rng(self.seed)
        self.rotation_ = Rotation.fit(keys, positions)
        turned = self.rotation_.turn(keys, positions, back=True)
        # From a key at position 0, a query looks turned back by the key's position, which is at most its own.
        views = [
            self.rotation_.turn(queries, rng.integers(0, asked, endpoint=True), back=True)
            for _ in range(_VIEWS)
        ]
        frame = Whitened(self.code_bytes)
        frame.fit_frame(turned, np.concatenate(views))
        written = self.fit_turned((turned - frame.mean_) @ frame.encoder_.T, rng)
        self.start_, self.into_, self.out_ = frame.mean_, frame.encoder_[written], frame.decoder_[:, written]

    def fit_turned(self, coordinates: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Fit what writes coordinates [keys, dims] of descending variance; returns which are written, bool [dims]."""
        raise NotImplementedError

    def write(self, coordinates: np.ndarray) -> np.ndarray:
        """Codes of the coordinates that are written, uint8."""
        raise NotImplementedError

    def read(self, codes: np.ndarray) -> np.ndarray:
        """Coordinates that codes stand for, float32 [keys, written]."""
        raise NotImplementedError

    def _code(self, keys: np.ndarray, positions: np.ndarray) -> np.ndarray:
        turned = self.rotation_.turn(keys, positions, back=True)
        return self.write((turned - self.start_) @ self.into_.T)

    def _rebuild(self, codes: np.ndarray, positions: np.ndarray) -> np.ndarray:
        turned = self.start_ + self.read(codes).astype(np.float64) @ self.out_.T
        keys = self.rotation_.turn(turned, positions)
        return ((keys - self.mean_) @ self.encoder_.T).astype(np.float32)

    @property
    def constant_bytes(self) -> int:
        """Of what estimates read, in fp16: the way out of the frame, the mean key and the frequencies."""
        return ELEMENT_BYTES * (self.out_.size + len(self.start_) + len(self.rotation_.frequency))

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
        }

    def load(self, arrays: dict[str, np.ndarray]) -> Codec:
        self.mean_, self.encoder_, self.decoder_ = arrays["mean"], arrays["encoder"], arrays["decoder"]
        self.metric_, self.rho_step_ = arrays["metric"], float(arrays["rho_step"][0])
        self.rotation_ = Rotation(arrays["frequency"], bool(arrays["interleaved"][0]))
        self.start_, self.into_, self.out_ = arrays["start"], arrays["into"], arrays["out"]
        return self
