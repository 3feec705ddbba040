"""What a codec is: a fitted way to write a key small, estimate its score and bound the estimate's error.

Every codec here is affine: a key is written as coordinates ``y = E (k - mu)``, quantised to ``y_hat``, and
read back as ``k_hat = mu + D y_hat``. With an invertible metric ``W`` (the codec's own frame) and ``rho >=
||W (k - k_hat)||`` measured when the record was written, Cauchy-Schwarz gives for every query ``q``

    |q.k - q.k_hat| <= ||W^-T q|| * rho,

whatever ``E``, ``D``, ``mu`` and the quantiser are: a badly fitted codec costs elimination, never
correctness.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from ghostkv.codecs.quantiser import UniformQuantiser
from ghostkv.files.blocks import row_blocks
from ghostkv.files.errors import TableError

# rho is one byte: 0..254 count steps, 255 says "larger than that" and makes the bound infinite.
RHO_BYTES = 1
# Bytes of a number in the full cache that bytes ratios refer to, which is fp16.
ELEMENT_BYTES = 2
RHO_MAX = 254
# Calibration keys that the step of rho is set from.
_RHO_KEYS = 4096
# Unit roundoff of float32, in which scores and estimates are computed.
UNIT_ROUNDOFF = 2.0**-24
# Relative slack of what is fitted in float64 and used in float32 (z, ||W^-T q||, rho steps).
FRAME_SLACK = 1.0 + 2.0**-18
# Roundings beside those of a dot product's own terms: the scale, offset, a soft cap and the final sum take less.
_SPARE = 20
# Products below the smallest float32 vanish; no score that matters is this small.
_UNDERFLOW = 2.0**-100


@dataclass(frozen=True)
class Records:
    """Ghost records of one KV head, as stored."""

    code: np.ndarray  # uint8 [keys, code_bytes]; the sketch, bit-packed
    # uint8 [keys]; residual norm in steps of the codec's ``rho_step_``, rounded up; 255 is infinite
    rho: np.ndarray
    first: int = 0  # position of the first key; the others follow it

    def __len__(self) -> int:
        return len(self.rho)

    def __getitem__(self, index: slice) -> Records:
        return Records(self.code[index], self.rho[index], self.first + index.indices(len(self))[0])


@dataclass(frozen=True)
class Decoded:
    """Records ready to be scored."""

    coordinates: np.ndarray  # float32 [keys, dims]; ``y_hat``
    # float32 [keys]; ``rho`` in key units plus what float32 rounds of the estimate; infinite where the record cannot bound
    radius: np.ndarray
    longest: float  # what ``||k||`` is at most, of keys of finite radius

    def __getitem__(self, index: slice) -> Decoded:
        return Decoded(self.coordinates[index], self.radius[index], self.longest)


@dataclass(frozen=True)
class ProjectedQueries:
    """Queries seen from a codec's frame."""

    offset: np.ndarray  # float32 [queries]; ``q . mu``
    coordinates: np.ndarray  # float32 [queries, dims]; ``z = D^T q``
    norm: np.ndarray  # float32 [queries]; ``||W^-T q||``, rounded up
    rounding: (
        np.ndarray
    )  # float32 [queries]; what float32 may round of ``q.k`` for a key of length 1, rounded up

    def weight(self, scale: float) -> np.ndarray:
        """What a key's radius is multiplied by to be the margin of its score: ``|scale| ||W^-T q||``, float32 [queries]."""
        return self.norm * np.float32(abs(scale))

    def slack(self, scale: float, decoded: Decoded) -> np.ndarray:
        """What a float32 evaluation of any key's score may be off, float32 [queries]; it belongs into every margin."""
        return round_up(self.rounding.astype(np.float64) * (abs(scale) * decoded.longest))


@dataclass
class Codec:
    """Base of the affine codecs; a subclass fits the frame and chooses the bits."""

    # The file's, set for every subclass.
    name: ClassVar[str] = ""
    # Of its lines in charts; a codec without one gets one.
    colour: ClassVar[str] = ""
    # Whether `sketch.codecs` can name it; not where it needs more than bytes and a seed.
    in_config: ClassVar[bool] = True
    # The largest residual norm that a record states, over the largest of calibration keys: one beyond it bounds nothing.
    headroom: ClassVar[float] = 1.25

    code_bytes: int  # bytes of the sketch of one key; a record takes ``RHO_BYTES`` more
    seed: int = 0  # seed of what is random in the fit
    mean_: np.ndarray = field(default=None, repr=False)  # [head_dim]
    encoder_: np.ndarray = field(default=None, repr=False)  # [dims, head_dim]
    decoder_: np.ndarray = field(default=None, repr=False)  # [head_dim, dims]
    metric_: np.ndarray = field(default=None, repr=False)  # [head_dim, head_dim]
    quantiser_: UniformQuantiser = field(default=None, repr=False)
    rho_step_: float = 0.0  # width of one step of the stored residual norm

    def __init_subclass__(cls) -> None:
        cls.name = cls.__module__.rpartition(".")[2]

    @property
    def record_bytes(self) -> int:
        """Bytes that one cold key costs on every step: sketch and residual norm."""
        return self.code_bytes + RHO_BYTES

    @property
    def constant_bytes(self) -> int:
        """Bytes that estimates read on every step whatever the number of keys: what was fitted, in fp16.

        For each coordinate a row of the decoder, and of the quantiser a step and a centre; and the mean.
        """
        head_dim, dims = self.decoder_.shape
        return ELEMENT_BYTES * (head_dim + head_dim * dims + 2 * dims)

    def fit(
        self,
        keys: np.ndarray,
        queries: np.ndarray,
        positions: np.ndarray | None = None,
        asked: np.ndarray | None = None,
    ) -> Codec:
        """Fit the frame, the quantiser and the residual step on calibration tensors; returns self.

        Parameters
        ----------
        keys : ndarray, shape [keys, head_dim]
            Keys of one KV head.
        queries : ndarray, shape [queries, head_dim]
            Queries of all heads that read that KV head.
        positions : ndarray of int, shape [keys], optional
            Where each key stands in its text; by default the keys are one text from its start.
        asked : ndarray of int, shape [queries], optional
            Where each query stands in its text; by default all stand after the last key.
        """
        keys, queries = np.asarray(keys, np.float64), np.asarray(queries, np.float64)
        positions = np.arange(len(keys)) if positions is None else np.asarray(positions, np.int64)
        asked = np.full(len(queries), positions.max(initial=0)) if asked is None else asked
        self.fit_frame(keys, queries)
        self._fit_code(keys, queries, positions, asked)
        some = slice(None, None, max(1, len(keys) // _RHO_KEYS))
        residual = self._residual(
            keys[some], self._rebuild(self._code(keys[some], positions[some]), positions[some])
        )
        self.rho_step_ = float(max(self.headroom * residual.max(initial=0.0), 1e-6) / RHO_MAX)
        return self

    def _fit_code(
        self, keys: np.ndarray, queries: np.ndarray, positions: np.ndarray, asked: np.ndarray
    ) -> None:
        """Fit what writes the code, once the frame is known."""
        self.quantiser_ = self.fit_quantiser((keys - self.mean_) @ self.encoder_.T)
        self._drop_unwritten_dims()

    def fit_frame(self, keys: np.ndarray, queries: np.ndarray) -> None:
        """Set ``mean_``, ``encoder_``, ``decoder_`` and ``metric_``."""
        raise NotImplementedError

    def fit_quantiser(self, coordinates: np.ndarray) -> UniformQuantiser:
        """Spend ``code_bytes`` on coordinates [keys, dims]; by default 8 bits on each of the first ones."""
        bits = np.zeros(coordinates.shape[1], np.int64)
        bits[: self.code_bytes] = 8
        return UniformQuantiser.fit(coordinates, bits)

    def _drop_unwritten_dims(self) -> None:
        written = self.quantiser_.bits > 0
        self.encoder_, self.decoder_ = self.encoder_[written], self.decoder_[:, written]
        self.quantiser_ = self.quantiser_.select(written)

    def _code(self, keys: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """Codes of float64 keys, uint8, before they are packed."""
        return self.quantiser_.quantise((keys - self.mean_) @ self.encoder_.T)

    def _rebuild(self, codes: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """Coordinates that codes of keys at these positions stand for, float32 [keys, dims]."""
        return self.quantiser_.dequantise(codes)

    def _pack(self, codes: np.ndarray) -> np.ndarray:
        return self.quantiser_.pack(codes, self.code_bytes)

    def _unpack(self, code: np.ndarray) -> np.ndarray:
        return self.quantiser_.unpack(code)

    def _residual(self, keys: np.ndarray, coordinates: np.ndarray) -> np.ndarray:
        """``||W (k - k_hat)||`` of each key, in float64."""
        rebuilt = self.mean_ + coordinates.astype(np.float64) @ self.decoder_.T
        return np.linalg.norm((keys - rebuilt) @ self.metric_.T, axis=1)

    def encode(self, keys: np.ndarray, first: int = 0) -> Records:
        """Write ghost records of finite keys as the cache holds them, float16 or wider.

        Parameters
        ----------
        keys : ndarray, shape [keys, head_dim]
            Keys that follow each other in a text.
        first : int
            Position of the first of them.
        """
        blocks = [self._encode(keys[rows], first + rows.start) for rows in row_blocks(len(keys))]
        if len(blocks) == 1:
            return blocks[0]
        return Records(
            *(np.concatenate([getattr(one, name) for one in blocks]) for name in ("code", "rho")), first
        )

    def _encode(self, keys: np.ndarray, first: int) -> Records:
        keys, positions = np.asarray(keys, np.float64), first + np.arange(len(keys))
        codes = self._code(keys, positions)
        steps = np.ceil(self._residual(keys, self._rebuild(codes, positions)) * FRAME_SLACK / self.rho_step_)
        rho = np.where(steps <= RHO_MAX, steps, 255).astype(np.uint8)
        return Records(self._pack(codes), rho, first)

    def decode(self, records: Records) -> Decoded:
        """Read records back; the radius carries what float32 rounds of estimates, derived in docs/certificates.md.

        Raises
        ------
        TableError
            The records were written with another number of code bytes.
        """
        if records.code.shape[1] != self.code_bytes:
            raise TableError(
                f"codec {self.name}: records have {records.code.shape[1]} code bytes, the codec "
                f"{self.code_bytes}. Delete results/sketch and rerun."
            )
        positions = records.first + np.arange(len(records))
        coordinates = self._rebuild(self._unpack(records.code), positions)
        rho = np.where(records.rho == 255, np.inf, records.rho * (self.rho_step_ * FRAME_SLACK))
        return self._decoded(coordinates, rho)

    def _decoded(self, coordinates: np.ndarray, rho: np.ndarray) -> Decoded:
        """Coordinates as scored, and their residual norms with the slack of rounding.

        A float32 dot product of n terms errs by at most ``n u ||a|| ||b||``; ``||z|| <= ||W D||_2 ||W^-T q||``, ``|q.mu| <=
        ||W mu|| ||W^-T q||``, and ``||k|| <= ||mu|| + ||D||_2 ||y_hat|| + ||W^-1||_2 rho``.
        """
        code_norm = np.linalg.norm(coordinates.astype(np.float64), axis=1)
        spread = np.linalg.norm(self.metric_ @ self.decoder_, 2)
        terms = (coordinates.shape[1] + _SPARE) * spread * code_norm
        rounding = UNIT_ROUNDOFF * (terms + _SPARE * np.linalg.norm(self.metric_ @ self.mean_)) + _UNDERFLOW
        shrink = np.linalg.norm(np.linalg.inv(self.metric_), 2)
        gain, bounded = np.linalg.norm(self.decoder_, 2), np.isfinite(rho)
        beyond = (gain * code_norm[bounded] + shrink * rho[bounded]).max(initial=0.0)
        longest = float(np.linalg.norm(self.mean_) + beyond)
        return Decoded(coordinates, round_up(rho + rounding), longest)

    def project(self, queries: np.ndarray) -> ProjectedQueries:
        """See queries of shape [queries, head_dim] from the codec's frame."""
        queries = np.asarray(queries, np.float64)
        dual = np.linalg.solve(self.metric_.T, queries.T).T
        return ProjectedQueries(
            (queries @ self.mean_).astype(np.float32),
            (queries @ self.decoder_).astype(np.float32),
            round_up(np.linalg.norm(dual, axis=1) * FRAME_SLACK + _UNDERFLOW),
            round_up(np.linalg.norm(queries, axis=1) * (UNIT_ROUNDOFF * (queries.shape[1] + _SPARE))),
        )

    def margins(self, queries: ProjectedQueries, decoded: Decoded, scale: float) -> np.ndarray:
        """What no score is further from its estimate than, float32, shape [queries, keys]."""
        slack = queries.slack(scale, decoded)[:, None] + np.float32(_UNDERFLOW)
        return queries.weight(scale)[:, None] * decoded.radius + slack

    def estimate(
        self, queries: ProjectedQueries, decoded: Decoded, scale: float, out: np.ndarray | None = None
    ) -> np.ndarray:
        """Estimated scores ``scale * (q.mu + z.y_hat)``, float32, shape [queries, keys]."""
        estimate = np.matmul(queries.coordinates, decoded.coordinates.T, out=out)
        estimate += queries.offset[:, None]
        estimate *= np.float32(scale)
        return estimate

    def arrays(self) -> dict[str, np.ndarray]:
        """Everything that was fitted, as plain arrays for safetensors."""
        return {
            "mean": self.mean_,
            "encoder": self.encoder_,
            "decoder": self.decoder_,
            "metric": self.metric_,
            "bits": self.quantiser_.bits,
            "step": self.quantiser_.step,
            "centre": self.quantiser_.centre,
            "rho_step": np.array([self.rho_step_]),
        }

    def load(self, arrays: dict[str, np.ndarray]) -> Codec:
        """The inverse of `arrays`; returns self."""
        self.mean_, self.encoder_, self.decoder_ = arrays["mean"], arrays["encoder"], arrays["decoder"]
        self.metric_, self.rho_step_ = arrays["metric"], float(arrays["rho_step"][0])
        self.quantiser_ = UniformQuantiser(arrays["bits"], arrays["step"], arrays["centre"])
        return self


def round_up(values: np.ndarray) -> np.ndarray:
    """Float64 to float32, never downwards."""
    with np.errstate(over="ignore"):
        narrow = values.astype(np.float32)
    return np.where(narrow < values, np.nextafter(narrow, np.float32(np.inf)), narrow)


def eigen(symmetric: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues (descending) and eigenvectors, signs fixed so that the same input gives the same basis."""
    values, vectors = np.linalg.eigh((symmetric + symmetric.T) / 2)
    values, vectors = values[::-1], vectors[:, ::-1]
    largest = np.abs(vectors).argmax(axis=0)
    return values, vectors * np.sign(vectors[largest, np.arange(vectors.shape[1])])
