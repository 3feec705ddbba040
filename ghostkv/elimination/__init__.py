"""The mathematics: exact attention, thresholds, sweeps, metrics, bounds, certificates, intervals.

`ghostkv.elimination(model, policy)` is `ghostkv.runtime.eliminating.elimination`: the room has the name that the verb has.
"""

import sys
from types import ModuleType


class _Room(ModuleType):
    def __call__(self, *args, **kwargs):
        from importlib import import_module

        return import_module("ghostkv.runtime.eliminating").elimination(*args, **kwargs)


sys.modules[__name__].__class__ = _Room
