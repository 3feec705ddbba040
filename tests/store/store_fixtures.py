"""Stores with known contents."""

from __future__ import annotations

from ghostkv.stages.store.workload import Contents
from ghostkv.store import GhostStore, StoreShape

# Two layers of two heads; segments of four tokens, so that a few tokens meet every part of the format.
SHAPE = StoreShape(
    layers=2, kv_heads=2, head_dim=3, value_dim=2, record_bytes=5, dtype="float16", segment_tokens=4
)
CONTENTS = Contents.random(SHAPE, 61, 0)


def fill(folder, tokens: int, contents: Contents = CONTENTS, **options):
    """A store of so many tokens, the sealed ones appended at once and each of the others by itself."""
    size = contents.shape.segment_tokens
    with GhostStore.create(folder, contents.shape, **options) as store:
        sealed = tokens - tokens % size
        if sealed:
            store.append(*contents.tokens(0, sealed))
        for token in range(sealed, tokens):
            store.append(*contents.tokens(token, token + 1))
    return folder
