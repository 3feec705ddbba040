"""Errors that a user of the lab can act on.

Every failure that a user can cause or cure is one of these, with one message that names what was found, what
is accepted and what to write instead. The workflow prints that message alone; a traceback means a fault of
the lab itself.
"""

import errno

# By which a disk says that it takes no more.
DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class GhostKVError(Exception):
    """Base of all errors whose message is meant for the user."""


class ConfigError(GhostKVError):
    """A config key is unknown, of the wrong type or outside what the model or text allows."""


class ModelError(GhostKVError):
    """A model cannot be fetched, verified or loaded."""


class TextError(GhostKVError):
    """A text cannot be fetched, is too short, or shares a document with another text."""


class CaptureError(GhostKVError):
    """A capture fails its own proof, or imported tensors are malformed."""


class TableError(GhostKVError):
    """A Parquet or safetensors file is missing, truncated, or not of the schema it should have."""


class StoreError(GhostKVError):
    """A store is damaged, locked, or asked for or given what its shape does not hold."""
