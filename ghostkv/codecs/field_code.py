"""Transform coding in whole fields: what a processor unpacks in a few instructions for sixteen keys at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ghostkv.codecs.quantiser import UniformQuantiser, measured_distortion
from ghostkv.codecs.whitened import Whitened
from ghostkv.files.errors import ConfigError

# Bits of a field, and how many fields fill a row of a record.
ROW_BITS = 32
ROW_BYTES = ROW_BITS // 8
FIELD_BITS = (8, 4, 2)


@dataclass
class FieldCode(Whitened):
    """The query-aware frame with bits in rows of 4 bytes, each row all fields of 8, of 4 or of 2 bits.

    Of all ways to fill the rows, fields of more bits on coordinates of more variance, the fit takes the one that leaves
    least squared score error on calibration keys. `transform_code` gives each coordinate the bits that suit it best;
    what this loses to it is the price of a layout that is read without a bit stream. Bytes beyond whole rows, and rows
    beyond the last coordinate, stay empty. In the model's seat such records are read packed (docs/speed.md).
    """

    colour = "#7570b3"

    def fit_quantiser(self, coordinates: np.ndarray) -> UniformQuantiser:
        bits = field_bits(measured_distortion(coordinates), self.code_bytes)
        return UniformQuantiser.fit(coordinates, bits)


def field_bits(distortion: np.ndarray, code_bytes: int, widths: tuple[int, ...] = FIELD_BITS) -> np.ndarray:
    """Bits of each coordinate, int64 [dims]: whole rows of one width each, the widest fields first.

    Parameters
    ----------
    distortion : ndarray, shape [9, dims]
        Of calibration coordinates of descending variance, as `measured_distortion` has it.
    widths : tuple of int
        Widths of fields that may be used, descending.
    """
    dims, rows = distortion.shape[1], 8 * code_bytes // ROW_BITS
    best, least = np.zeros(dims, np.int64), np.inf
    # Where every coordinate has a field before all rows are full, rows stay empty.
    for *counts, _ in _fillings(rows, len(widths) + 1):
        bits = np.repeat(widths, [n * ROW_BITS // w for n, w in zip(counts, widths, strict=True)])
        # A last row may have more fields than there are coordinates left; no row may be left without any.
        last = [w for n, w in zip(counts, widths, strict=True) if n][-1:]
        if last and len(bits) - ROW_BITS // last[0] >= dims:
            continue
        bits = np.pad(bits[:dims], (0, max(0, dims - len(bits))))
        left = distortion[bits, np.arange(dims)].sum()
        if left < least:
            best, least = bits, left
    return best


def row_widths(bits: Sequence[int]) -> list[int]:
    """Width of the fields of each row of a code, from the bits of each coordinate.

    Raises
    ------
    ConfigError
        Coordinates do not lie in whole rows of one width, the widest first.
    """
    every = [int(each) for each in bits]
    left, widths = every, []
    while left:
        # Where one coordinate has more bits than a row, no field is whole.
        fields = max(1, ROW_BITS // left[0])
        row, left = left[:fields], left[fields:]
        short = len(row) < fields and left
        if short or len(set(row)) > 1 or row[0] not in FIELD_BITS or (widths and row[0] > widths[-1]):
            raise ConfigError(
                f"records: coordinates of {sorted(set(every))} bits do not lie in whole fields. Accepted: rows of {ROW_BYTES} bytes of "
                f"one width of {FIELD_BITS}, the widest first.\n  Fit: codec field_code"
            )
        widths.append(row[0])
    return widths


def _fillings(rows: int, kinds: int):
    """All ways to share `rows` among so many kinds."""
    if kinds == 1:
        yield (rows,)
        return
    for first in range(rows + 1):
        for rest in _fillings(rows - first, kinds - 1):
            yield (first, *rest)
