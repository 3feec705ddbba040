"""A hierarchical navigable small world graph (Malkov and Yashunin, arXiv 1603.09320) of keys by inner product.

As faiss builds it: M links a node, 2 M on the ground level, 40 candidates while it is built, and links to nodes that are nearer to
one another than to the node left out. Nodes come in the order of their positions, so that a search for a query may leave out the keys
that come after it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ghostkv.files.compiled import njit

_BUILT_WITH = 40


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"reassoc", "contract"})
def _likeness(a, b):
    total = np.float32(0)
    for i in range(a.size):
        total += a[i] * b[i]
    return total


@njit(cache=True, nogil=True, error_model="numpy")
def _beam(keys, links, query, entry, limit, near, nodes, seen, stamp):
    """Best-first search on one level: fills `near` and `nodes` with the best found, and returns how many keys were looked at.

    `nodes` is -1 where fewer were found. Nodes from `limit` on are not there.
    """
    near[:] = -np.inf
    nodes[:] = -1
    done = np.zeros(nodes.size, np.bool_)
    near[0], nodes[0], looked = _likeness(keys[entry], query), entry, 1
    seen[entry] = stamp
    while True:
        at = 0
        while at < nodes.size and (done[at] or nodes[at] < 0):
            at += 1
        if at == nodes.size:
            return looked
        done[at] = True
        for other in links[nodes[at]]:
            if other < 0:
                break
            if other >= limit or seen[other] == stamp:
                continue
            seen[other] = stamp
            looked += 1
            like = _likeness(keys[other], query)
            if like > near[-1]:
                place = nodes.size - 1
                while place > 0 and near[place - 1] < like:
                    near[place], nodes[place], done[place] = (
                        near[place - 1],
                        nodes[place - 1],
                        done[place - 1],
                    )
                    place -= 1
                near[place], nodes[place], done[place] = like, other, False


@njit(cache=True, nogil=True, error_model="numpy")
def _diverse(keys, near, nodes, most):
    """Of nodes from the nearest on, those that are nearer to the new one than to any that was kept; int32, at most `most`."""
    kept = np.empty(most, np.int32)
    count = 0
    for at in range(nodes.size):
        if nodes[at] < 0 or count == most:
            break
        alone = True
        for other in kept[:count]:
            alone &= _likeness(keys[nodes[at]], keys[other]) <= near[at]
        if alone:
            kept[count] = nodes[at]
            count += 1
    return kept[:count]


@njit(cache=True, nogil=True, error_model="numpy")
def _link_back(keys, links, node, new, most):
    """Add a link, and keep diverse ones where there are too many."""
    row = links[node]
    count = 0
    while count < most and row[count] >= 0:
        count += 1
    if count < most:
        row[count] = new
        return
    others = np.empty(most + 1, np.int32)
    others[:most], others[most] = row[:most], new
    near = np.empty(most + 1, np.float32)
    for at in range(most + 1):
        near[at] = _likeness(keys[node], keys[others[at]])
    order = np.argsort(-near)
    kept = _diverse(keys, near[order], others[order], most)
    row[:] = -1
    row[: kept.size] = kept


@njit(cache=True, nogil=True, error_model="numpy")
def _build(keys, levels, most):
    """Links by level, int32 [levels, nodes, 2 * most], -1 where there is none."""
    links = np.full((levels.max() + 1, keys.shape[0], 2 * most), -1, np.int32)
    near, nodes = np.empty(_BUILT_WITH, np.float32), np.empty(_BUILT_WITH, np.int32)
    seen = np.full(keys.shape[0], -1, np.int64)
    entry, stamp = 0, 0
    for new in range(1, keys.shape[0]):
        start = entry
        for level in range(levels[entry], -1, -1):
            stamp += 1
            _beam(keys, links[level], keys[new], start, new, near, nodes, seen, stamp)
            start = nodes[0]
            if level <= levels[new]:
                room = 2 * most if level == 0 else most
                kept = _diverse(keys, near, nodes, room)
                links[level, new, : kept.size] = kept
                for node in kept:
                    _link_back(keys, links[level], node, new, room)
        if levels[new] > levels[entry]:
            entry = new
    return links


@njit(cache=True, nogil=True, error_model="numpy")
def _search(keys, links, levels, entry, query, limit, ef):
    seen = np.full(keys.shape[0], -1, np.int64)
    one, first = np.empty(1, np.float32), np.empty(1, np.int32)
    start, looked = entry, 0
    for level in range(levels[entry], 0, -1):
        looked += _beam(keys, links[level], query, start, limit, one, first, seen, level)
        start = first[0]
    near, nodes = np.empty(ef, np.float32), np.empty(ef, np.int32)
    looked += _beam(keys, links[0], query, start, limit, near, nodes, seen, 0)
    return nodes, looked


@dataclass(frozen=True)
class HnswGraph:
    """The graph of some keys.

    Attributes
    ----------
    keys : ndarray of float32, shape [keys, width]
    links : ndarray of int32, shape [levels, keys, 2 * M]
    levels : ndarray of int64, shape [keys]
        The highest level of each key.
    """

    keys: np.ndarray
    links: np.ndarray
    levels: np.ndarray

    @classmethod
    def of(cls, keys: np.ndarray, most: int, rng: np.random.Generator) -> HnswGraph:
        """Build it with M = `most`."""
        levels = np.floor(rng.exponential(1 / np.log(most), len(keys))).astype(np.int64)
        return cls(keys, _build(keys, levels, most), levels)

    def search(self, query: np.ndarray, limit: int, ef: int) -> tuple[np.ndarray, int]:
        """The best of the first `limit` keys that a beam of `ef` finds, best first, and how many keys it looked at."""
        entry = int(np.argmax(self.levels[:limit]))
        nodes, looked = _search(self.keys, self.links, self.levels, entry, query, limit, ef)
        return nodes[nodes >= 0], looked
