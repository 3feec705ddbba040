"""Ghost records in device memory, and the field codes of a layer as kernels read them.

A code keeps the bytes of `field_code`: rows of 4 bytes, each all fields of 8, of 4 or of 2 bits, a byte's first field in its
highest bits. ``codes`` and ``rho`` lie apart, a key's code in one piece.

Kernels read a byte as `parts` equal ones, masked and never shifted: a field is the sum of the parts that it is made of, each in
its place. Part p of a byte, put into the low byte of a float16, is the subnormal number ``part * 2^-24``. A product with a weight
in its place, ``weight / 2^shift``, is exact, and rows of all widths are scored alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ghostkv.codecs import Codec, Records
from ghostkv.codecs.base import FRAME_SLACK, UNIT_ROUNDOFF
from ghostkv.codecs.field_code import FIELD_BITS, ROW_BITS, ROW_BYTES, row_widths
from ghostkv.files.errors import ConfigError

# Bytes of code of a key that kernels take: a load takes a power of two of them.
CODE_BYTES = (4, 8, 16, 32, 64)
# Records are reserved in whole chunks of keys, so that no load of a chunk leaves them.
CHUNK_KEYS = 1024
# Heads of a group are scored side by side; columns beyond the group are empty.
COLUMNS = 8
# Least terms of a product of float16 matrices.
_LEAST_TERMS = 16


def pack_fields(levels: torch.Tensor, widths: Sequence[int]) -> torch.Tensor:
    """Levels of fields as bytes.

    Parameters
    ----------
    levels : Tensor of uint8, shape [..., fields]
        All fields of all rows, in order; a row of width w has 32 / w.
    widths : sequence of int
        Bits of the fields of each row.

    Returns
    -------
    Tensor of uint8, shape [..., 4 * rows]
    """
    held = sum(ROW_BITS // width for width in widths)
    if held != levels.shape[-1]:
        raise ConfigError(
            f"pack_fields: {levels.shape[-1]} levels a key; rows of widths {list(widths)} hold {held}"
        )
    rows, first = [], 0
    for width in widths:
        count = ROW_BITS // width
        row = levels[..., first : first + count].unflatten(-1, (ROW_BYTES, -1)).to(torch.int32)
        rows.append((row << _shifts(width, levels.device)).sum(-1).to(torch.uint8))
        first += count
    return torch.cat(rows, -1)


def unpack_fields(codes: torch.Tensor, widths: Sequence[int]) -> torch.Tensor:
    """The inverse of `pack_fields`."""
    rows = []
    for row, width in enumerate(widths):
        some = codes[..., row * ROW_BYTES : (row + 1) * ROW_BYTES, None].to(torch.int32)
        levels = (some >> _shifts(width, codes.device)) & ((1 << width) - 1)
        rows.append(levels.flatten(-2).to(torch.uint8))
    return torch.cat(rows, -1)


def _shifts(width: int, device: torch.device) -> torch.Tensor:
    return torch.arange(8 - width, -1, -width, device=device, dtype=torch.int32)


def part_places(code_bytes: int, parts: int) -> tuple[np.ndarray, np.ndarray]:
    """Byte and part of each term of a score, int64 [code_bytes * parts], in the order in which `scan` unpacks them.

    Codes below 16 bytes are unpacked from words of 4 bytes: word, then odd or even byte, part, and half of the word.
    """
    if code_bytes >= _LEAST_TERMS:
        return np.tile(np.arange(code_bytes), parts), np.repeat(np.arange(parts), code_bytes)
    word, odd, part, half = (one.ravel() for one in np.indices((code_bytes // 4, 2, parts, 2)))
    return 4 * word + 2 * half + odd, part


@dataclass(frozen=True)
class DeviceFrames:
    """The field codes of a layer's KV heads, as tensors on one device; `terms` is ``code_bytes * parts``.

    What queries see stands in the order of `part_places`. What keys are written by stands as ``[part, byte]``, a field where its
    lowest part is and nothing elsewhere.
    """

    code_bytes: int
    parts: int
    offset: torch.Tensor  # float32 [kv_heads, head_dim]; the key that a record of middle levels stands for
    decoder: (
        torch.Tensor
    )  # float32 [kv_heads, terms, head_dim]; what one level of a term's field adds to a key
    place: torch.Tensor  # float32 [kv_heads, terms]; 2^-shift of the field, 0 where no coordinate is written
    middle: torch.Tensor  # float32 [kv_heads, terms]; middle level of the field, at its lowest part alone
    mean: torch.Tensor  # float32 [kv_heads, head_dim]
    encoder: torch.Tensor  # float32 [kv_heads, terms, head_dim]; from a key less the mean to levels
    start: torch.Tensor  # float32 [kv_heads, terms]; the mean's level
    top: torch.Tensor  # float32 [kv_heads, terms]; the highest level
    shift: torch.Tensor  # int32 [kv_heads, terms]
    metric: torch.Tensor  # float32 [kv_heads, head_dim, head_dim]
    rebuild: (
        torch.Tensor
    )  # float32 [kv_heads, terms, head_dim]; what one level adds to a key, seen in the metric
    rebuilt: torch.Tensor  # float32 [kv_heads, head_dim]; middle levels less the mean, seen in the metric
    # float32 [kv_heads, 4]: what float32 may miss of a residual norm for a key less the mean of length 1, for levels off the
    # middle of length 1, and for any key; and one over the width of a step of rho
    slack: torch.Tensor

    @property
    def kv_heads(self) -> int:
        return self.decoder.shape[0]

    @property
    def head_dim(self) -> int:
        return self.decoder.shape[2]

    def of_queries(self) -> list[torch.Tensor]:
        """What a query is folded with."""
        return [self.offset, self.decoder, self.place, self.middle]

    @classmethod
    def of(cls, codecs: Sequence[Codec], device: torch.device | str = "cpu") -> DeviceFrames:
        """From one fitted `field_code` per KV head, all of the same size.

        Raises
        ------
        ConfigError
            A codec does not lie in whole fields, or its code has a number of bytes that kernels do not take.
        """
        code_bytes = codecs[0].code_bytes
        if code_bytes not in CODE_BYTES or any(codec.code_bytes != code_bytes for codec in codecs):
            raise ConfigError(
                f"device records: codes of {sorted({codec.code_bytes for codec in codecs})} bytes. "
                f"Accepted: one of {CODE_BYTES} for all KV heads of a layer.\n  Fit: FieldCode({CODE_BYTES[2]})"
            )
        widths = [row_widths(codec.quantiser_.bits) for codec in codecs]
        least = min((width for one in widths for width in one), default=max(FIELD_BITS))
        parts = max(8 // least, _LEAST_TERMS // code_bytes)
        heads = [_head_tables(codec, found, parts) for codec, found in zip(codecs, widths, strict=True)]
        tensors = {
            name: torch.from_numpy(np.stack([head[name] for head in heads])).to(device) for name in heads[0]
        }
        return cls(code_bytes, parts, **tensors)


def _head_tables(codec: Codec, widths: list[int], parts: int) -> dict[str, np.ndarray]:
    """One KV head's share of `DeviceFrames`."""
    quantiser, dims = codec.quantiser_, len(codec.quantiser_.bits)
    # Of each byte and part: the coordinate that it belongs to, or one past the last, and how far its field is shifted.
    coordinate = np.full((codec.code_bytes, parts), dims)
    shift = np.zeros((codec.code_bytes, parts), np.int32)
    first, bit = 0, np.arange(parts) * (8 // parts)
    for row, width in enumerate(widths):
        each = 8 // width
        for byte in range(ROW_BYTES):
            found = first + byte * each + each - 1 - bit // width
            coordinate[row * ROW_BYTES + byte] = np.minimum(found, dims)
            shift[row * ROW_BYTES + byte] = bit // width * width
        first += ROW_BITS // width
    held, lowest = coordinate < dims, (coordinate < dims) & (shift == bit)

    def by_term(values: np.ndarray, where: np.ndarray) -> np.ndarray:
        spread = np.concatenate([values, np.zeros_like(values[:1])])[coordinate]
        return spread * where.reshape(where.shape + (1,) * (values.ndim - 1))

    byte, part = part_places(codec.code_bytes, parts)
    top = ((1 << quantiser.bits) - 1).astype(np.float64)
    level = (codec.decoder_ * quantiser.step).T
    seen = level @ codec.metric_.T
    rebuilt = codec.metric_ @ (codec.decoder_ @ quantiser.centre)
    of_queries = {
        "decoder": by_term(level, held),
        "place": held * 2.0**-shift,
        "middle": by_term(top / 2, lowest),
    }
    of_keys = {
        "encoder": by_term(codec.encoder_ / quantiser.step[:, None], lowest),
        "start": by_term(top / 2 - quantiser.centre / quantiser.step, lowest),
        "top": by_term(top, lowest),
        "shift": shift,
        "rebuild": by_term(seen, lowest),
    }
    # Roundings of a sum of so many terms, those of the tables and of the last few operations among them.
    terms = (codec.metric_.shape[0] + dims + 16) * UNIT_ROUNDOFF * FRAME_SLACK
    gain, longest = np.linalg.norm(codec.metric_), np.linalg.norm(codec.mean_)
    tables = {
        "offset": codec.mean_ + codec.decoder_ @ quantiser.centre,
        "mean": codec.mean_,
        "metric": codec.metric_,
        "rebuilt": rebuilt,
        "slack": np.array(
            [terms * gain, terms * np.linalg.norm(seen), terms * (gain * longest + np.linalg.norm(rebuilt)),
             FRAME_SLACK / codec.rho_step_]
        ),
        **{name: values[byte, part] for name, values in of_queries.items()},
        **{name: values.swapaxes(0, 1).reshape(-1, *values.shape[2:]) for name, values in of_keys.items()},
    }  # fmt: skip
    return {
        name: np.ascontiguousarray(values, np.int32 if name == "shift" else np.float32)
        for name, values in tables.items()
    }


@dataclass(frozen=True)
class DeviceRecords:
    """Ghost records of a layer in device memory, one row a sequence and KV head.

    The cold keys of a row are those between its sinks and `written`; `value_sum` is the sum of their V.
    """

    codes: torch.Tensor  # uint8 [batch, kv_heads, keys, code_bytes]; keys are whole chunks
    rho: torch.Tensor  # uint8 [batch, kv_heads, keys]; 255 is infinite
    value_sum: torch.Tensor  # float32 [batch, kv_heads, value_dim]
    written: (
        torch.Tensor
    )  # int32 [batch, kv_heads]; positions before it have records, those before the sinks' end aside

    @classmethod
    def empty(
        cls, batch: int, kv_heads: int, tokens: int, code_bytes: int, value_dim: int, device="cpu"
    ) -> DeviceRecords:
        """Room for the records of `tokens` positions, none written."""
        keys = -(-max(tokens, 1) // CHUNK_KEYS) * CHUNK_KEYS
        return cls(
            torch.zeros(batch, kv_heads, keys, code_bytes, dtype=torch.uint8, device=device),
            torch.zeros(batch, kv_heads, keys, dtype=torch.uint8, device=device),
            torch.zeros(batch, kv_heads, value_dim, dtype=torch.float32, device=device),
            torch.zeros(batch, kv_heads, dtype=torch.int32, device=device),
        )

    @property
    def keys(self) -> int:
        """Positions that there is room for."""
        return self.codes.shape[2]

    def tensors(self) -> list[torch.Tensor]:
        """All of them, in their order."""
        return [self.codes, self.rho, self.value_sum, self.written]

    def put(self, batch: int, kv_head: int, first: int, records: Records) -> None:
        """Put records that a codec wrote at positions from `first` on; `written` and `value_sum` are left to the caller."""
        at = slice(first, first + len(records))
        self.codes[batch, kv_head, at] = torch.from_numpy(records.code).to(self.codes.device)
        self.rho[batch, kv_head, at] = torch.from_numpy(records.rho).to(self.rho.device)


@dataclass(frozen=True)
class DeviceRule:
    """Which cold keys are read."""

    theta: torch.Tensor  # float32 [heads]; natural log of a share of the softmax
    sinks: int
    hot: int
    scale: float
    softcap: float = 0.0  # 0 is none
    compensate: bool = True  # whether the tail stands for what is not read
