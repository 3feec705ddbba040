"""How far long work is. A module of its own, so that an edit of how logs are kept reruns no job."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tqdm import tqdm

# Seconds between two drawings of a bar, and between two lines of a log.
_BAR, _LINE = 1.0, 5.0


def progress(
    iterable: Iterable | None = None, total: float | None = None, desc: str = "", unit: str = "it"
) -> tqdm:
    """A tqdm bar for work that takes long: iterate over it, or call `update` inside `with`.

    On a terminal it is a bar of one line, which goes when the work is done. Elsewhere, and in a job, it is a line
    every few seconds. In the log of a job `workflow/screen.py` finds how far the job is.

    Parameters
    ----------
    total : float, optional
        How much there is to do, where `iterable` does not say.
    """
    # A job sets the threads of its libraries before it imports any.
    from tqdm import tqdm

    drawn = sys.stderr.isatty()
    # Terminals of containers may not say how large they are, and tqdm draws nothing on one of no size.
    fits = drawn and all(os.get_terminal_size(sys.stderr.fileno()))
    return tqdm(
        iterable,
        total=total,
        desc=desc,
        unit=unit,
        file=sys.stderr if drawn else _Lines(),
        leave=not drawn,
        mininterval=_BAR if drawn else _LINE,
        ncols=None if fits else 100,
        nrows=None if fits else 24,
        dynamic_ncols=fits,
    )


class _Lines:
    """What tqdm draws over and over, as lines of standard error, which is the log inside a job."""

    encoding = "utf-8"

    def write(self, text: str) -> None:
        if line := text.strip("\r\n ").rstrip():
            print(line, file=sys.stderr, flush=True)

    def flush(self) -> None:
        sys.stderr.flush()
