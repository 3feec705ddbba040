"""Folders for what is needed while a job runs, beside what it makes: of the same disk, and gone afterwards."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from ghostkv.files.processes import identity, lives

# Seconds without a change after which a folder is nobody's, where its owner cannot be asked.
_FORGOTTEN = 24 * 3600


@contextmanager
def scratch_folder(folder: str | Path, kind: str) -> Iterator[Path]:
    """A new hidden folder in `folder`, which is made if need be; it is removed when left.

    What killed processes left of this kind is removed first. The name says who the owner is. One that lives keeps its
    folder, and so does one of another machine, or of before a restart, until nothing was written there for a day.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob(f".{kind}-*"):
        if _abandoned(left, kind):
            shutil.rmtree(left, ignore_errors=True)
    who = identity() or {"pid": os.getpid(), "start": 0, "boot": "", "namespace": ""}
    owner = (
        "_".join(str(who[key]) for key in ("pid", "start", "boot"))
        + "_"
        + re.sub(r"\D", "", who["namespace"])
    )
    with TemporaryDirectory(dir=folder, prefix=f".{kind}-{owner}-") as place:
        yield Path(place)


def _abandoned(left: Path, kind: str) -> bool:
    said = re.match(rf"\.{kind}-(?P<pid>\d+)_(?P<start>\d+)_(?P<boot>[\w-]+)_(?P<namespace>\d+)-", left.name)
    living = None
    if said:
        who = {"pid": int(said["pid"]), "start": int(said["start"]), "boot": said["boot"]}
        living = lives(who | {"namespace": f"pid:[{said['namespace']}]"})
    if living is None:
        with suppress(OSError):
            newest = max(path.lstat().st_mtime for path in (left, *left.rglob("*")))
            return time.time() - newest > _FORGOTTEN
    return living is False
