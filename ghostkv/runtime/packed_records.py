"""Ghost records as a processor reads them: fields of sixteen keys side by side, and queries in integers.

A block holds the codes of 16 keys, ``[row, key, 4 bytes]``: one load brings 4 bytes of each key. `rho` lies beside the
codes; 255 says that a record bounds nothing and its key is always read.

A query sees level ``l`` of coordinate `c` as ``weight * l``. Weights are rounded to int8, in one unit for each head, so that
a score is a sum of integers. It is the same on every machine, and what rounding costs is in the estimate like any other error of a record.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ghostkv.codecs import Records
from ghostkv.codecs.field_code import FIELD_BITS, ROW_BITS, ROW_BYTES, row_widths
from ghostkv.files.compiled import njit
from ghostkv.files.errors import ConfigError
from ghostkv.runtime.fused_records import RecordFrames
from ghostkv.runtime.lanes import LANES

_LOG2E = 1.4426950408889634
_LARGEST = 127


class PackedFrames(NamedTuple):
    """What scores in integers need of the field codes of a layer's KV heads.

    `offset` float32 [kv_heads, head_dim] is what a record of middle levels stands for; ``decoder`` float32 [kv_heads, fields,
    head_dim] what one level of a field adds to a key; ``middle`` float32 [kv_heads, fields] the level that a field has in
    the middle. Fields stand in the order in which they are unpacked, ``[row, field of a byte, byte]``; those that hold no
    coordinate add nothing. ``rows`` int64 [kv_heads, 3] counts rows of fields of 8, 4 and 2 bits.
    """

    offset: np.ndarray
    decoder: np.ndarray
    middle: np.ndarray
    rows: np.ndarray


def packed_frames(writing: RecordFrames) -> PackedFrames:
    """From the codecs of a layer's KV heads as records are written.

    Raises
    ------
    ConfigError
        A codec's coordinates do not lie in whole rows of one width, the widest first.
    """
    kinds = [row_widths(bits) for bits in _bits(writing)]
    width = writing.mean.shape[1]
    most = max(sum(ROW_BITS // bits for bits in widths) for widths in kinds)
    offset = np.empty((len(kinds), width), np.float32)
    decoder = np.zeros((len(kinds), most, width), np.float32)
    middle = np.zeros((len(kinds), most), np.float32)
    rows = np.array([[widths.count(bits) for bits in FIELD_BITS] for widths in kinds], np.int64)
    for head, widths in enumerate(kinds):
        dims = writing.dims[head]
        axes, step = writing.decoder[head, :dims], writing.step[head, :dims, None]
        offset[head] = writing.mean[head] + writing.centre[head, :dims] @ axes
        place, first = 0, 0
        for bits in widths:
            fields = ROW_BITS // bits
            # In a row coordinates follow byte by byte; unpacked, the first fields of all bytes come first.
            order = first + np.arange(fields).reshape(ROW_BYTES, -1).T.ravel()
            held = order < dims
            found = order[held]
            decoder[head, place : place + fields][held] = axes[found] * step[found]
            middle[head, place : place + fields][held] = ((1 << bits) - 1) / 2
            place, first = place + fields, first + fields
    return PackedFrames(offset, decoder, middle, rows)


def field_places(writing: RecordFrames) -> np.ndarray:
    """Byte of a record that each coordinate's level lies in, and by how much it is shifted, int64 [kv_heads, dims, 2]."""
    bits = np.log2(writing.top + 1).astype(np.int64)
    begin = np.cumsum(bits, axis=1) - bits
    return np.stack([begin // 8, 8 - bits - begin % 8], axis=2)


def in_whole_fields(writing: RecordFrames) -> bool:
    """Whether `packed_frames` takes them."""
    try:
        return all(row_widths(bits) for bits in _bits(writing))
    except ConfigError:
        return False


def _bits(writing: RecordFrames) -> list[np.ndarray]:
    """Bits of each coordinate that a KV head's records have."""
    bits = np.log2(writing.top + 1).astype(np.int64)
    return [row[:dims] for row, dims in zip(bits, writing.dims, strict=True)]


def packed(records: Sequence[Records], rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Codes uint8 [kv_heads, blocks, 64 * rows] and rho uint8 [kv_heads, 16 * blocks] of one text's records.

    Keys beyond the last are empty.
    """
    keys, heads = len(records[0]), len(records)
    blocks = -(-keys // LANES)
    codes = np.zeros((heads, blocks * LANES, rows, ROW_BYTES), np.uint8)
    rho = np.zeros((heads, blocks * LANES), np.uint8)
    for head, one in enumerate(records):
        codes[head, :keys] = one.code[:, : rows * ROW_BYTES].reshape(keys, rows, ROW_BYTES)
        rho[head, :keys] = one.rho
    codes = codes.reshape(heads, blocks, LANES, rows, ROW_BYTES).swapaxes(2, 3)
    return np.ascontiguousarray(codes).reshape(heads, blocks, -1), rho


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract", "reassoc", "nsz"})
def query_weights(queries, offset, decoder, middle, scale, weights, unit, bias):
    """Queries of a group as the records' fields see them; scores are in powers of 2.

    ``bias[g] + unit[g] * (sum of weight * level)`` is the estimate.

    Parameters
    ----------
    queries : ndarray of float32, shape [group, head_dim]
    weights : ndarray of int8, shape [fields / 4, group, 4]
    unit, bias : ndarray of float64, shape [group]
    """
    fields, width = decoder.shape
    exact = np.empty(fields, np.float32)
    for g in range(queries.shape[0]):
        most = np.float32(0.0)
        for f in range(fields):
            s = np.float32(0.0)
            for i in range(width):
                s += queries[g, i] * decoder[f, i]
            exact[f] = s
            most = max(most, abs(s))
        shift = np.float32(0.0)
        for i in range(width):
            shift += queries[g, i] * offset[i]
        one = np.float64(most) / _LARGEST if most > 0.0 else 1.0
        middles = 0.0
        for f in range(fields):
            weight = np.rint(exact[f] / one)
            weights[f // 4, g, f % 4] = np.int8(weight)
            # Beside the middle level of a field, what rounding leaves has a mean of about 0.
            middles += weight * middle[f]
        unit[g] = one * scale * _LOG2E
        bias[g] = shift * scale * _LOG2E - unit[g] * middles
