"""Runs of this folder's scripts, each once, in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def printed(*arguments: str) -> str:
    """What Python prints when it runs a script, or a module by ``-m``."""
    # One thread each: waiting ones would count as processor time.
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        # Within the clone, as a container's home may not be written to.
        "TRITON_CACHE_DIR": str(ROOT / ".snakemake/triton"),
    }
    environment.pop("TRITON_INTERPRET", None)
    run = subprocess.run(
        [sys.executable, *arguments],
        capture_output=True, text=True, env=environment, cwd=ROOT, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-4000:]
    return run.stdout
