"""How much of a long context is held at once: blocks of queries and blocks of rows, of stated sizes."""

from __future__ import annotations

from collections.abc import Iterator

# Pairs of a query head's query and a key in a block, or one query of a group: 16 MB of each float32 array of them. Most runs
# of 4,096 tokens are one block.
PAIRS = 1 << 22
# Rows of keys or values in a block: 32 MB in float64 where they are 64 wide.
ROWS = 1 << 16


def query_blocks(queries: int, heads: int, keys: int) -> Iterator[slice]:
    """Consecutive queries whose scores are held at once.

    Parameters
    ----------
    heads : int
        Query heads that are held together: those that share a KV head.
    keys : int
        Keys that each query is scored against.
    """
    return _slices(queries, max(1, PAIRS // max(heads * keys, 1)))


def row_blocks(rows: int) -> Iterator[slice]:
    """Consecutive rows that are widened at once."""
    return _slices(rows, ROWS)


def _slices(count: int, size: int) -> Iterator[slice]:
    """At least one, of equal sizes as far as may be."""
    blocks = max(1, -(-count // size))
    edges = [count * number // blocks for number in range(blocks + 1)]
    return (slice(start, stop) for start, stop in zip(edges, edges[1:], strict=False))
