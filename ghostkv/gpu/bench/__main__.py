"""`python -m ghostkv.gpu.bench --out DIR --minutes 8`: measure the kernels on this machine's card.

A JSON file a part, rewritten after each result, so that a run that is cut short has left what it found. `--interpret` runs all
parts at toy sizes in Triton's interpreter on the CPU, without times: it tries the code and measures nothing.
"""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from pathlib import Path

import torch

from ghostkv.files.errors import GhostKVError
from ghostkv.files.io import write_json
from ghostkv.gpu.bench.clock import Clock
from ghostkv.gpu.errors import DeviceError


def parts() -> dict:
    """The parts by the name of their file, in order."""
    from ghostkv.gpu.bench import model
    from ghostkv.gpu.bench import parts as some

    return {
        "card": some.card, "correctness": some.correctness, "gather": some.gather, "attention": some.attention,
        "whole_step": model.whole_step,
    }  # fmt: skip


def run(out: Path, clock: Clock) -> bool:
    """Run all parts; returns whether none failed. A part that fails leaves its error in its file, and the next one begins."""
    from ghostkv.gpu.bench.parts import versions

    out.mkdir(parents=True, exist_ok=True)
    sound = True
    for name, part in parts().items():
        found = {"part": name, "interpreted": clock.interprets, **versions(clock.device), "rows": []}
        try:
            for row in part(clock):
                found["rows"].append(row)
                write_json(found, out / f"{name}.json")
                print(f"{name}: {len(found['rows'])}, {clock.left():.0f} s left", flush=True)
        except Exception as error:  # a card may raise anything; the other parts are still worth having
            found["error"] = f"{type(error).__name__}: {error}"[:2000]
            write_json(found, out / f"{name}.json")
            traceback.print_exc()
            sound = False
    return sound


def main() -> None:
    """Parse, check that there is a card, run."""
    parser = argparse.ArgumentParser(prog="python -m ghostkv.gpu.bench", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for JSON files")
    parser.add_argument("--minutes", type=float, default=8.0, help="after which no further case is begun")
    parser.add_argument(
        "--interpret", action="store_true", help="toy sizes in Triton's interpreter, without times"
    )
    chosen = parser.parse_args()
    try:
        if chosen.interpret:
            os.environ["TRITON_INTERPRET"] = "1"
        elif not torch.cuda.is_available():
            raise DeviceError(
                f"ghostkv.gpu.bench: torch {torch.__version__} finds no CUDA device here, so there is nothing to measure.\n"
                "  Run it on a machine with an NVIDIA card, or try the code alone: --interpret"
            )
        from ghostkv.gpu.launches import kernels

        kernels()
    except GhostKVError as error:
        sys.exit(str(error))
    device = torch.device("cpu" if chosen.interpret else "cuda")
    if not run(chosen.out, Clock(device, 60 * chosen.minutes)):
        sys.exit("A part failed: its file says why.")


if __name__ == "__main__":
    main()
