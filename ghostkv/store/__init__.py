"""A store of K and V that outlives its process: records in memory, rows in a memory-mapped file.

The format, the commit protocol and what recovery does are described in docs/store.md.
"""

from ghostkv.store.core import GhostStore
from ghostkv.store.layout import StoreShape
from ghostkv.store.pending import Gathered, Pending
from ghostkv.store.plan import Reads
from ghostkv.store.recovery import repair

__all__ = ["Gathered", "GhostStore", "Pending", "Reads", "StoreShape", "repair"]
