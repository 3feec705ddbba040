"""What a size comes to: sizes are stated in bits a coordinate, which mean the same at every head_dim."""

from __future__ import annotations


def code_bytes(bits: float, head_dim: int) -> int:
    """Bytes of code that so many bits a coordinate come to, rounded to a whole one, at least one.

    Parameters
    ----------
    bits : float
        Bits a coordinate of a key.
    head_dim : int
        Coordinates of a key.
    """
    return max(1, round(bits * head_dim / 8))
