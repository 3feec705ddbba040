"""The turning of keys with their position (RoPE, Su et al. 2021), found in the keys themselves.

Rotary embedding turns each pair of a key's coordinates by its position times a frequency of that pair. A mean that the pair has
before the turn is, after it, a line in the pair's spectrum. So the frequencies are read off calibration keys, and nobody need
know the model's base, its scaling for long contexts or how it pairs coordinates.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# Points of the spectrum per position: the peak between points is then found by a parabola.
_PADDING = 8
# The largest share of a pair's power that noise puts into one line, at least and times ln(n) / n of n keys.
_LEAST_SHARE, _NOISE = 0.02, 4.0


@dataclass(frozen=True)
class Rotation:
    """Frequencies of the pairs of coordinates; a pair without a line does not turn."""

    frequency: np.ndarray  # float64 [head_dim // 2]; radians a position
    interleaved: bool  # pairs are (0, 1), (2, 3), ...; else coordinate i goes with i + head_dim // 2

    @classmethod
    def fit(cls, keys: np.ndarray, positions: np.ndarray) -> Rotation:
        """The rotation that most of the keys' power turns with.

        Parameters
        ----------
        keys : ndarray of float64, shape [keys, head_dim]
        positions : ndarray of int, shape [keys]
        """
        found = [cls._lines(keys, positions, interleaved) for interleaved in (False, True)]
        frequency, power = zip(*found, strict=True)
        interleaved = bool(power[1] > power[0])
        return cls(frequency[interleaved], interleaved)

    @classmethod
    def _lines(cls, keys: np.ndarray, positions: np.ndarray, interleaved: bool) -> tuple[np.ndarray, float]:
        """Frequency of each pair's strongest line, 0 where that may be noise, and the power in all lines."""
        count, span = len(keys), int(positions.max(initial=0)) + 1
        size = 1 << (span * _PADDING - 1).bit_length()
        least = max(_LEAST_SHARE, _NOISE * np.log(max(count, 2)) / count)
        frequency, power = np.zeros(keys.shape[1] // 2), 0.0
        for pair, (real, imaginary) in enumerate(zip(*_pairs(keys.T, interleaved), strict=True)):
            summed = np.bincount(positions, real, span) + 1j * np.bincount(positions, imaginary, span)
            lines = np.abs(np.fft.fft(summed, size)) ** 2 / count**2
            peak = int(lines.argmax())
            if lines[peak] > least * (real @ real + imaginary @ imaginary) / count:
                power += lines[peak]
                # Within half a point of 0 a turn and none are not told apart.
                if peak == 0:
                    continue
                at = peak + _vertex(lines[peak - 1], lines[peak], lines[(peak + 1) % size])
                frequency[pair] = 2.0 * np.pi * (at - size if peak > size // 2 else at) / size
        return frequency, power

    def turn(self, vectors: np.ndarray, positions: np.ndarray, back: bool = False) -> np.ndarray:
        """Vectors turned to their positions, or back to position 0; float64 [vectors, head_dim]."""
        angle = positions[:, None] * (-self.frequency if back else self.frequency)
        cosine, sine = np.cos(angle), np.sin(angle)
        turned = np.array(vectors, np.float64)
        real, imaginary = _pairs(np.asarray(vectors, np.float64), self.interleaved, axis=1)
        to_real, to_imaginary = _pairs(turned, self.interleaved, axis=1)
        to_real[...] = real * cosine - imaginary * sine
        to_imaginary[...] = real * sine + imaginary * cosine
        return turned


def _pairs(vectors: np.ndarray, interleaved: bool, axis: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Views of the first and second coordinate of all pairs; an odd one at the end has no pair."""
    half = vectors.shape[axis] // 2
    first, second = (
        (slice(0, 2 * half, 2), slice(1, 2 * half, 2))
        if interleaved
        else (slice(half), slice(half, 2 * half))
    )
    return (vectors[first], vectors[second]) if axis == 0 else (vectors[:, first], vectors[:, second])


def _vertex(before: float, at: float, after: float) -> float:
    """Where the parabola through three equidistant points has its peak, from the middle one."""
    bend = before - 2.0 * at + after
    return 0.5 * (before - after) / bend if bend < 0 else 0.0
