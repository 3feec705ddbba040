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
    """An error that names the file, the byte where the damaged part starts, what was found there and the remedy.

    `found` is a clause: "the row ... does not match its checksum"; `{folder}` in the remedy stands for the store's
    folder.
    """
    folder = Path(path).parent
    return StoreError(f"{path}: at offset {offset}, {found}.\n  {remedy.replace('{folder}', str(folder))}")
