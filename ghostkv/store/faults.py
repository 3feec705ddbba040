"""What a store says when it is damaged: which file, at which byte, what was found, what to do."""

from __future__ import annotations

from pathlib import Path

from ghostkv.files.errors import StoreError

RESTORE = "Restore the folder from a copy, or delete it and append again."
REPAIR = (
    "Restore the folder from a copy; or keep what is whole and lose the rest: "
    "python -c \"from ghostkv.store import repair; repair('{folder}')\""
)


def damaged(path: str | Path, offset: int, found: str, remedy: str = RESTORE) -> StoreError:
    """An error that names the file, the byte offset, what was found there and the remedy.

    Parameters
    ----------
    path : str or Path
        The file, not its folder.
    offset : int
        Byte of the file where the damaged part starts.
    found : str
        A clause: "the row ... does not match its checksum".
    remedy : str
        What to do; `{folder}` stands for the store's folder.
    """
    folder = Path(path).parent
    return StoreError(f"{path}: at offset {offset}, {found}.\n  {remedy.replace('{folder}', str(folder))}")
