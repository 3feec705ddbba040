"""The survey of all architectures: `python -m tests.survey`, or with names for some of them.

Each is examined in a process of its own, so that a crash is a line of the table and not the end of it. Without names,
docs/architectures.md is written.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from ghostkv.files.io import write_text
from tests.survey.examine import CRASH, TRACEBACK, WRONG, Found, examine
from tests.survey.page import PAGE, page
from tests.survey.tiny import causal_types

_TIMEOUT = 900


def survey(kinds: list[str], workers: int) -> Iterator[dict[str, Any]]:
    """What becomes of each architecture, in their order."""
    with ThreadPoolExecutor(workers) as pool:
        yield from pool.map(_in_a_process, kinds)


def _in_a_process(kind: str) -> dict[str, Any]:
    forked = multiprocessing.get_context("fork")
    ours, theirs = forked.Pipe(duplex=False)
    with tempfile.TemporaryDirectory() as folder:
        process = forked.Process(target=_child, args=(kind, folder, theirs))
        process.start()
        theirs.close()
        try:
            return ours.recv() if ours.poll(_TIMEOUT) else vars(Found(kind, CRASH, f"{_TIMEOUT} s passed"))
        except EOFError:
            process.join()
            return vars(Found(kind, CRASH, f"the process ended with {process.exitcode}"))
        finally:
            process.kill()
            process.join()


def _child(kind: str, folder: str, found: Any) -> None:
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    found.send(examine(kind, Path(folder)))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("kinds", nargs="*")
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    asked = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for row in survey(asked.kinds or causal_types(), asked.workers):
        rows.append(row)
        why = " ".join(row["why"].split())
        print(
            f"{row['architecture']}: {row['outcome']} {row['blocks']} {row['steps']} [{row['stage']}] {why}",
            flush=True,
        )
    if not asked.kinds:
        write_text(page(rows), PAGE)
    return int(any(row["outcome"] in (WRONG, TRACEBACK, CRASH) for row in rows))


if __name__ == "__main__":
    sys.exit(main())
