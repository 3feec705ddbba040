"""The survey of all architectures: `python -m tests.survey`, or with names for some of them.

Each is examined in a process of its own, so that a crash is a line of the table and not the end of it.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

TIMEOUT = 300


def survey(kinds: list[str], workers: int) -> list[dict]:
    from tests.survey.examine import CRASH, Found

    context = multiprocessing.get_context("fork")

    def one(kind: str) -> dict:
        begin = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "found.json"
            process = context.Process(target=_child, args=(kind, folder, str(out)))
            process.start()
            process.join(TIMEOUT)
            if process.is_alive():
                process.kill()
                process.join()
            crash = vars(Found(kind, CRASH, f"exit code {process.exitcode}"))
            found = json.loads(out.read_text()) if out.exists() else crash
        found["seconds"] = time.monotonic() - begin
        print(json.dumps(found), flush=True)
        return found

    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(one, kinds))


def _child(kind: str, folder: str, out: str) -> None:
    from tests.survey.examine import examine

    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    Path(out).write_text(json.dumps(examine(kind, Path(folder))))


if __name__ == "__main__":
    from tests.survey.tiny import causal_types

    parser = argparse.ArgumentParser()
    parser.add_argument("kinds", nargs="*")
    parser.add_argument("--workers", type=int, default=2)
    asked = parser.parse_args()
    survey(asked.kinds or causal_types(), asked.workers)
    sys.exit(0)
