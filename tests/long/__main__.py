"""What each stage takes at long contexts: `python -m tests.long FOLDER`, or with `--tokens` for other contexts.

Tensors are generated into FOLDER, the stages of resources/configs/long_generated.yaml run there, each context in a folder of its
own, and a table of CPU seconds and peak memory is printed. Stages are run again; captures and sketches that are there stay.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from ghostkv.captures.generators import make
from ghostkv.files.usage import read_usage
from ghostkv.stages.synthetic.files import write_tensors

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "resources/configs/long_generated.yaml"
# A table of each stage's job.
TABLES = {
    "frontier": "points",
    "certificates": "certificates",
    "calibrated": "calibrated",
    "peers": "peers",
}


def config_at(tokens: int) -> dict[str, Any]:
    """The committed config with all positions scaled to another context."""
    config = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))
    capture, whole = config["capture"], config["capture"]["tokens"]

    def scaled(position: int) -> int:
        return position * tokens // whole

    capture["tokens"] = tokens
    for band in capture["query_bands"]:
        band |= {name: scaled(band[name]) for name in ("start", "stop")}
    config["frontier"]["headline_start"] = scaled(config["frontier"]["headline_start"])
    config["calibrated"]["bands"] = [scaled(edge) for edge in config["calibrated"]["bands"]]
    return config


def run(folder: Path, tokens: int, stages: list[str]) -> dict[str, tuple[float, float]]:
    """Run the stages at one context; CPU seconds and MB of the largest job of each."""
    config = config_at(tokens)
    for item in config["capture"]["import"]:
        tensors = folder / item["folder"]
        if not tensors.exists():
            generator = make({"name": "anisotropic"}, spread=3.0, span=tokens)
            sizes = {"kv_heads": 1, "group": 3, "width": 64}
            write_tensors(tensors, generator, 0, item["role"], tokens, **sizes)
    (folder / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    for stage in stages:
        shutil.rmtree(folder / "results" / stage, ignore_errors=True)
    targets = [f"results/{stage}/layers/layer_00/{TABLES[stage]}.parquet" for stage in stages]
    subprocess.run(
        [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--cores", "1"]
        + ["--directory", str(folder), "--configfile", str(folder / "config.yaml"), "--", *targets],
        check=True,
        stdout=sys.stderr,
        cwd=ROOT,
        # One thread of every library, so that CPU seconds are those of the work.
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    )
    taken = read_usage(folder / "results/logs")
    return {
        stage: (max(job.cpu_time for job in jobs), max(job.max_rss for job in jobs))
        for stage, jobs in taken.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tokens", type=int, nargs="+", default=[8192, 32768, 131072])
    parser.add_argument("--stages", nargs="+", choices=sorted(TABLES), default=list(TABLES))
    asked = parser.parse_args()
    found = {}
    for tokens in asked.tokens:
        folder = asked.folder.absolute() / str(tokens)
        folder.mkdir(parents=True, exist_ok=True)
        found[tokens] = run(folder, tokens, asked.stages)
    heads = [f"{tokens:,}: CPU s | MB" for tokens in found]
    print("| stage | " + " | ".join(heads) + " |")
    print("|:--|" + "--:|" * (2 * len(heads)))
    for stage in ("capture", "sketch", *asked.stages):
        cells = [f"{cpu:.1f} | {mb:,.0f}" for cpu, mb in (taken[stage] for taken in found.values())]
        print(f"| {stage} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
