"""The corruption experiment: damage a store anywhere, and see whether it says so."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ghostkv.files.errors import StoreError
from ghostkv.files.io import stable_seed
from ghostkv.stages.store.workload import Contents
from ghostkv.store import GhostStore, StoreShape, repair
from ghostkv.store.layout import HEADER_BYTES, LOG_FILE, MARK_BYTES, MARK_OFFSETS, PAGE, ROWS_FILE

KINDS = ("flip", "stretch", "zeros", "cut")
_STRETCH, _ZEROS = 64, 512
# A store is mostly rows: this share of the damage goes where a random byte seldom falls.
_HEADER_SHARE, _LOG_SHARE = 0.2, 0.3


def damage(folder: Path, contents: Contents, tokens: int, count: int, seed: int) -> Iterator[dict]:
    """Damage `count` copies of a store of `tokens` tokens, each once, and open and read each; columns of
    `CORRUPTION_SCHEMA`.

    "silent" is an outcome that must not occur: tokens are lacking or differ and nothing was said.
    """
    original = _build(folder / "whole", contents, tokens)
    copy = folder / "damaged"
    copy.mkdir()
    for point in range(count):
        rng = np.random.default_rng(stable_seed("damage", seed, point))
        name, offset, kind = _draw(rng, original)
        files = dict(original)
        files[name], size = _damaged(original[name], offset, kind, rng)
        for file, data in files.items():
            (copy / file).write_bytes(data)
        about = {"point": point, "kind": kind, "file": name, "offset": offset, "bytes": size}
        yield about | {"part": _part(contents.shape, name, offset)} | _tried(copy, name, contents, tokens)


def _build(folder: Path, contents: Contents, tokens: int) -> dict[str, bytes]:
    with GhostStore.create(folder, contents.shape) as store:
        at = 0
        # The last tokens one by one, so that the log holds several frames.
        for size in [tokens - tokens % contents.shape.segment_tokens] + [1] * tokens:
            if at < tokens:
                at = store.append(*contents.tokens(at, at + size))
    return {name: (folder / name).read_bytes() for name in (ROWS_FILE, LOG_FILE)}


def _draw(rng: np.random.Generator, original: dict[str, bytes]) -> tuple[str, int, str]:
    where, kind = rng.random(), KINDS[int(rng.integers(len(KINDS)))]
    if where < _HEADER_SHARE:
        return ROWS_FILE, int(rng.integers(0, MARK_OFFSETS[1] + MARK_BYTES)), kind
    name = LOG_FILE if where < _HEADER_SHARE + _LOG_SHARE else ROWS_FILE
    return name, int(rng.integers(0, len(original[name]))), kind


def _damaged(data: bytes, offset: int, kind: str, rng: np.random.Generator) -> tuple[bytes, int]:
    if kind == "cut":
        return data[:offset], len(data) - offset
    size = {"flip": 1, "stretch": _STRETCH, "zeros": _ZEROS}[kind]
    old = data[offset : offset + size]
    noise = rng.integers(1, 256, len(old), np.uint8)
    new = bytes(len(old)) if kind == "zeros" else (np.frombuffer(old, np.uint8) ^ noise).tobytes()
    return data[:offset] + new + data[offset + len(old) :], len(old)


def _tried(folder: Path, damaged: str, contents: Contents, tokens: int) -> dict:
    stage = "open"
    try:
        with GhostStore.open(folder) as store:
            stage = "read"
            same = store.tokens == tokens and contents.same(store, tokens)
        outcome = {"outcome": "harmless" if same else "silent"}
        return outcome | dict.fromkeys(
            ("named_file", "named_offset", "has_remedy", "kept_tokens", "kept_identical")
        )
    except StoreError as error:
        text = str(error)
    offset = re.search(r"at offset (\d+)", text)
    kept = _repaired(folder, contents)
    return {
        "outcome": f"refused at {stage}",
        "named_file": f"{folder / damaged}:" in text,
        "named_offset": int(offset[1]) if offset else None,
        "has_remedy": "\n  " in text,
        "kept_tokens": kept[0] if kept else None,
        "kept_identical": kept[1] if kept else None,
    }


def _repaired(folder: Path, contents: Contents) -> tuple[int, bool] | None:
    """Tokens that a repair keeps and whether they are what was appended; None where it refuses."""
    try:
        kept = repair(folder)
    except StoreError:
        return None
    with GhostStore.open(folder, check="all") as store:
        return kept, store.tokens == kept and contents.same(store, kept)


def _part(shape: StoreShape, name: str, offset: int) -> str:
    """Which part of the format an offset falls into."""
    if name == LOG_FILE:
        return "log"
    if offset < PAGE:
        if offset < HEADER_BYTES:
            return "header"
        in_mark = any(start <= offset < start + MARK_BYTES for start in MARK_OFFSETS)
        return "marks" if in_mark else "padding"
    inside = (offset - PAGE) % shape.segment_bytes - shape.records_bytes
    if inside < 0:
        return "records"
    return "rows" if inside < shape.heads * shape.segment_tokens * shape.row_bytes else "padding"
