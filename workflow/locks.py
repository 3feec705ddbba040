"""Locks that a killed run left: removed where it is proved that their owner is dead, and left alone everywhere else.

Snakemake writes no name on its locks. So each run writes down who it is, what locks stood there before it, and which ones it
took. While another run lives, or may live on another machine, a run touches no lock.

On a cluster the jobs of a killed run go on. They see that it is dead by its claim, which the next run takes away.
"""

from __future__ import annotations

import atexit
import json
import os
import platform
import signal
import sys
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ghostkv.files.io import atomic_path
from ghostkv.files.processes import identity, lives

STATE = Path(".snakemake")
# The path of the claim of the run that a job on another machine belongs to.
_CLAIM = "GHOSTKV_CLAIM"


@dataclass
class Claim:
    """What a run writes down.

    Attributes
    ----------
    process : dict
        Its identity; empty where the system has none, so that nobody takes it for dead.
    before : list of str
        Locks that stood there when it started.
    taken : list of str or None
        Locks that it took; None, if it died before it could say so.
    """

    process: dict[str, str | int] = field(default_factory=dict)
    before: list[str] = field(default_factory=list)
    taken: list[str] | None = None

    def owns(self, lock: str) -> bool:
        return lock not in self.before if self.taken is None else lock in self.taken


class Claims:
    """The claims of all runs of a folder, and this run's own among them."""

    def __init__(self) -> None:
        self._own = Claim(identity() or {})
        name = f"{platform.node()}.{os.getpid()}.{self._own.process.get('start', '')}"
        self._path = STATE.absolute() / "runs" / f"{name}.json"
        self._others: dict[str, bool | None] = {}

    def enter(self) -> None:
        """Write this run's claim, and remove the locks of dead runs if no other may live."""
        with suppress(OSError):  # where nothing can be written, no run of ours can have left a lock
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._own.before = sorted(_locks().values())
            # Before looking at the others: of two runs that start together, at least one then sees the other.
            self._write()
            os.environ[_CLAIM] = str(self._path)
            atexit.register(self._leave, os.getpid())
            self._remove_dead()
            self._own.before = sorted(_locks().values())
            self._write()

    def took(self, workflow: Any) -> None:
        """Write down which locks Snakemake took for this run."""
        names = {Path(path).name for path in getattr(workflow.persistence, "_lockfile", {}).values()}
        self._own.taken = [lock for name, lock in _locks().items() if name in names]
        with suppress(OSError):
            self._write()

    def advice(self) -> str:
        """What to tell somebody who finds the folder locked."""
        those = ", ".join(sorted(name for name, living in self._others.items() if living is not False))
        who = f" (machine, process and its start: {those})" if those else ""
        if any(self._others.values()):
            return f"A run is at work in this folder{who}. Wait for it to end, or use another folder: --directory"
        return (
            f"No run of this machine holds the lock, and it may be one of another machine{who}. If none is at work, add"
            ' --unlock once (make frontier ARGS="--unlock"), then run the command again.'
        )

    def _remove_dead(self) -> None:
        paths = [path for path in self._path.parent.glob("*.json") if path != self._path]
        if "--unlock" in sys.argv:  # the user says that none of them lives
            for path in paths:
                path.unlink(missing_ok=True)
            return
        claims = {path: _read(path) for path in paths}
        living = {path: lives(claim.process) for path, claim in claims.items()}
        self._others = {path.stem: state for path, state in living.items()}
        if all(state is False for state in living.values()):
            for name, lock in _locks().items():
                if any(claim.owns(lock) for claim in claims.values()):
                    (STATE / "locks" / name).unlink(missing_ok=True)
        for path, state in living.items():
            # As long as a lock may be its own, a dead run's claim is what proves it.
            if state is False and not any(map(claims[path].owns, _locks().values())):
                path.unlink(missing_ok=True)

    def _write(self) -> None:
        with atomic_path(self._path) as temporary:
            temporary.write_text(json.dumps(asdict(self._own)))

    def _leave(self, process: int) -> None:
        if os.getpid() == process:  # and not a fork of it
            with suppress(OSError):
                self._path.unlink(missing_ok=True)


def end_with_claim(pause: float = 2) -> bool:
    """Let this process end, and so its job, once the claim of the run that it belongs to is gone.

    Returns False where that is so already. A run that could write no claim has none to look for.
    """
    claim = Path(os.environ.get(_CLAIM, "/"))

    def watch() -> None:
        while claim.exists():
            time.sleep(pause)
        # Without a word: Snakemake would remove the outputs of its job, which another one may write by now.
        os.kill(os.getpid(), signal.SIGKILL)

    if here := claim.exists():
        threading.Thread(target=watch, daemon=True).start()
    return here


def _locks() -> dict[str, str]:
    """Snakemake's locks by name, each with what tells it from a later one of that name."""
    found = {}
    for path in (STATE / "locks").glob("*.lock"):
        with suppress(FileNotFoundError):
            found[path.name] = f"{path.name} {path.stat().st_ino} {path.stat().st_mtime_ns}"
    return found


def _read(path: Path) -> Claim:
    """The claim in a file; of a run whose claim cannot be read nothing is known."""
    with suppress(OSError, ValueError, TypeError):
        return Claim(**json.loads(path.read_text()))
    return Claim()
