"""The error of this room. It stands here, as a change of `ghostkv/files/errors.py` would rerun every job of the workflow."""

from ghostkv.files.errors import GhostKVError


class DeviceError(GhostKVError):
    """A GPU, or what runs on one, is not there or not able to do what is asked of it."""
