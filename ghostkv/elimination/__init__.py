"""The mathematics: exact attention, thresholds, sweeps, metrics, bounds, certificates, intervals.

Python puts a room that was imported where `ghostkv.elimination`, the verb, would be: called, the room is the verb.
"""

import sys
from types import ModuleType

import ghostkv


class _Room(ModuleType):
    def __call__(self, *args, **kwargs):
        return ghostkv._face("elimination")(*args, **kwargs)


sys.modules[__name__].__class__ = _Room
