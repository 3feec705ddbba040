"""What a GGUF file states about itself, read without its vocabulary, so that a start costs no more with a large one.

The `gguf` package makes a Python object of each of a vocabulary's words, which takes seconds for every look. Here long
arrays are stepped over. The layout is that of the GGUF specification (ggml/docs/gguf.md), versions 2 and 3.
"""

from __future__ import annotations

import mmap
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from ghostkv.files.errors import ModelError

# Value types by their number: how `struct` reads them. 8 is a string, 9 an array.
_SCALARS = dict(enumerate("BbHhIif?")) | {10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
# An array with a number for each layer is kept, one with an item for each word is not.
_LONGEST = 4096
_DIMENSIONS = 8
_SPLIT_NAME = re.compile(r"(.+)-\d{5}-of-(\d{5})\.gguf")


class GgufHeader(NamedTuple):
    """What a file states.

    Attributes
    ----------
    pairs : dict
        Key -> value; arrays of more than 4096 items are left out.
    shapes : dict
        Tensor -> its shape.
    places : dict
        Tensor -> the number of its type, and where it begins, in bytes after the header.
    length : int
        Bytes after the header.
    """

    pairs: dict[str, Any]
    shapes: dict[str, tuple[int, ...]]
    places: dict[str, tuple[int, int]]
    length: int

    @property
    def alignment(self) -> int:
        """Every tensor begins at a multiple of so many bytes."""
        stated = self.pairs.get("general.alignment", 32)
        return stated if type(stated) is int and stated > 0 else 32


def read_gguf_header(path: str | Path) -> GgufHeader:
    """The header of a GGUF file.

    Raises
    ------
    ModelError
        The file cannot be read, is no GGUF file of version 2 or 3, ends before its header does, or names a thing twice.
    """
    try:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _Reader(data).header()
    except (OSError, ValueError, struct.error) as error:
        raise ModelError(
            f"{path}: not a readable GGUF file ({error}). Fetch it again, or write another path."
        ) from error


def gguf_shape(path: str | Path) -> dict[str, Any]:
    """Layers, heads, kv_heads, head_dim and max_context, as far as the header states one for all layers.

    `attention_layers` too, where some have none.

    Raises
    ------
    ModelError
        As `read_gguf_header`; the file is one part of a split one, or states no attention that could be measured.
    """
    refuse_split(path)
    pairs = read_gguf_header(path).pairs
    refuse_split(path, pairs)
    family = pairs.get("general.architecture")
    if not isinstance(family, str):
        raise ModelError(
            f"{path}: the header has no general.architecture, so nothing tells what model it is."
        )

    def number(key: str, least: int = 1) -> int | None:
        found = pairs.get(f"{family}.{key}")
        # Hybrids state a number for each layer, 0 where a layer has no attention.
        several = {one for one in found if one} if isinstance(found, list) else {found}
        if several == {None} or len(several) > 1:
            return None
        one = several.pop() if several else 0
        if type(one) is not int or one < least:
            raise ModelError(
                f"{path}: {family}.{key} is {found!r}. Accepted: a whole number of at least {least}, because the lab "
                "measures attention.\n  Write: path: /data/other.gguf   (a decoder with attention, under model.custom)"
            )
        return one

    layers, heads, width = number("block_count"), number("attention.head_count"), number("embedding_length")
    for key in ("block_count", "attention.head_count"):
        if f"{family}.{key}" not in pairs:
            raise ModelError(
                f"{path}: the header has no {family}.{key}. Accepted: a GGUF file of a decoder with attention.\n"
                "  Write: path: /data/other.gguf   (under model.custom)"
            )
    by_layer = pairs.get(f"{family}.attention.head_count_kv")
    several = isinstance(by_layer, list)
    kv_heads = number("attention.head_count_kv") or (None if several else heads)
    head_dim = number("attention.key_length") or (width // heads if width and heads else None)
    found = {"layers": layers, "heads": heads, "kv_heads": kv_heads, "head_dim": head_dim}
    found |= {"max_context": number("context_length")}
    if several and 0 in by_layer:
        found["attention_layers"] = tuple(layer for layer, count in enumerate(by_layer) if count)
    return {name: value for name, value in found.items() if value is not None}


def refuse_split(path: str | Path, pairs: dict[str, Any] | None = None) -> None:
    """Refuse one part of a model that was split over several files, which transformers reads as if it were all of it.

    By its name alone where no `pairs` of its header are given. Raises ModelError.
    """
    named = _SPLIT_NAME.fullmatch(Path(path).name)
    parts = int(named[2]) if named else (pairs or {}).get("split.count", 1)
    if isinstance(parts, int) and parts > 1:
        stem = named[1] if named else Path(path).stem
        raise ModelError(
            f"{path}: one of {parts} parts of a split GGUF file. Accepted: a whole one, or the model's safetensors.\n"
            f"  Merge the parts once (llama-gguf-split --merge {Path(path).name} {stem}.gguf) and write: "
            f"path: {Path(path).with_name(f'{stem}.gguf')}"
        )


class _Reader:
    """Walks over a header; never beyond the end of the file, because `struct` refuses to."""

    def __init__(self, data: mmap.mmap):
        self.data, self.at = data, 0

    def header(self) -> GgufHeader:
        magic, version, tensors, count = self._take("4sIQQ")
        if magic != b"GGUF":
            raise ValueError("it does not start with GGUF")
        if version not in (2, 3):
            raise ValueError(f"version {version}; accepted: little-endian files of versions 2 and 3")
        pairs = self._table(count, self._pair)
        found = {key: value for key, value in pairs.items() if value is not None}
        table = self._table(tensors, self._tensor)
        shapes = {name: shape for name, (shape, _) in table.items()}
        header = GgufHeader(found, shapes, {name: place for name, (_, place) in table.items()}, 0)
        return header._replace(length=len(self.data) - -(-self.at // header.alignment) * header.alignment)

    def _table(self, count: int, read: Callable[[], Any]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for _ in range(count):
            name = self._string()
            if name in found:
                raise ValueError(f"{name} stands in it twice")
            found[name] = read()
        return found

    def _pair(self) -> Any:
        (kind,) = self._take("I")
        return self._array() if kind == _ARRAY else self._value(kind)

    def _tensor(self) -> tuple[tuple[int, ...], tuple[int, int]]:
        (dimensions,) = self._take("I")
        if dimensions > _DIMENSIONS:
            raise ValueError(f"a tensor of {dimensions} dimensions")
        return self._take(f"{dimensions}Q"), self._take("IQ")

    def _take(self, layout: str) -> tuple:
        found = struct.unpack_from("<" + layout, self.data, self.at)
        self.at += struct.calcsize("<" + layout)
        return found

    def _string(self) -> str:
        (length,) = self._take("Q")
        if length > len(self.data) - self.at:
            raise ValueError("it ends within a text")
        text = self.data[self.at : self.at + length]
        self.at += length
        return text.decode("utf-8", "replace")

    def _value(self, kind: int) -> Any:
        if kind == _STRING:
            return self._string()
        if kind not in _SCALARS:
            raise ValueError(f"a value of unknown type {kind}")
        return self._take(_SCALARS[kind])[0]

    def _array(self) -> list | None:
        kind, count = self._take("IQ")
        if count <= _LONGEST and kind != _ARRAY:
            return [self._value(kind) for _ in range(count)]
        if kind in _SCALARS:
            self.at += struct.calcsize(_SCALARS[kind]) * count
        elif kind == _STRING:
            self._skip_strings(count)
        else:
            raise ValueError(f"an array of type {kind}")
        if self.at > len(self.data):
            raise ValueError("it ends within an array")
        return None

    def _skip_strings(self, count: int) -> None:
        length, data, at = struct.Struct("<Q").unpack_from, self.data, self.at
        for _ in range(count):
            at += 8 + length(data, at)[0]
        self.at = at
