"""Damage done to every artefact of a finished tiny run, and what the jobs that read it make of it.

Each is one of: a bit flipped, the file cut, emptied, replaced by a sibling, rewritten with other columns, rewritten
without rows. The last two go through the lab's own writer, so that their checksums fit. A job must refuse with a
`GhostKVError`, or write the bytes that it wrote before. `make damages` makes the run, damages all of it and prints a
table; `test_damages.py` does a part of it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import chdir, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq

from ghostkv.files.errors import GhostKVError
from ghostkv.files.io import read_metadata, write_table
from ghostkv.files.jobs import run
from ghostkv.files.seals import MAY_BE_EMPTY
from ghostkv.files.tensors import load_tensors, save_tensors
from ghostkv.report.schemas import SCHEMAS

ROOT = Path(__file__).parents[2]
# Their outputs are times, so nothing says whether they would have been the same.
TIMED = {"capture_overhead", "compare_plan", "measure_memory", "time_layers", "time_overlap", "time_steps"}
KINDS = ("flip", "cut", "empty", "sibling", "columns", "no rows")
REFUSED, SAME, SILENT, FOREIGN = "refused", "same values", "silent", "another error"


@dataclass(frozen=True)
class Damage:
    """One damage to one file, which one job then reads."""

    path: str  # from the folder of the run
    kind: str
    job: int
    seed: int

    @property
    def group(self) -> str:
        """What sort of file it is, for the table of counts."""
        _, stage, *folders, name = self.path.split("/")
        if stage in ("capture", "trace", "texts"):
            return f"{stage}: {name}"
        if stage in ("models", "sketch"):
            return f"{'model' if stage == 'models' else stage}: {name}"
        return f"{stage}: tables of a layer, text or the like" if folders else f"{stage}: tables"


def planned(snakefile: Path, folder: Path, *targets: str) -> list[dict]:
    """The jobs of a run, as `planned_jobs.py` prints them."""
    command = [
        sys.executable,
        "tests/workflow/planned_jobs.py",
        snakefile,
        "tests/config/tiny.yaml",
        folder,
        *targets,
    ]
    said = subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, text=True, check=True)
    return json.loads(said.stdout)


def readers(jobs: Sequence[dict], folder: Path, without: Collection[str] = ()) -> dict[str, list[int]]:
    """Which jobs read each file that the lab wrote. Whoever is given a model's manifest reads its folder; the report does not."""
    found: dict[str, list[int]] = {}
    for number, job in enumerate(jobs):
        if job["rule"] in TIMED or job["rule"] in without:
            continue
        given = [[one] if isinstance(one, str) else one for one in job["inputs"].values()]
        for path in itertools.chain.from_iterable(given):
            if path.startswith(("..", "/", "tests")):
                continue
            files = [folder / path]
            if path.endswith("manifest.json") and job["rule"] != "report":
                files = sorted(files[0].parent.iterdir())
            for file in files:
                found.setdefault(str(file.relative_to(folder)), []).append(number)
    return found


def damages(files: dict[str, list[int]], rounds: int = 1) -> Iterator[Damage]:
    """`rounds` times: every kind of damage to every file, read by one of its readers after the other."""
    turns = {path: itertools.cycle(numbers) for path, numbers in sorted(files.items())}
    seeds = itertools.count()
    for _, (path, turn), kind in itertools.product(range(rounds), turns.items(), KINDS):
        if path.endswith((".parquet", "codecs.safetensors")) or kind in ("flip", "cut", "empty"):
            yield Damage(path, kind, next(turn), next(seeds))


def damage(one: Damage, folder: Path) -> bool:
    """Damage the file; False where there is nothing to do to it."""
    path, rng = folder / one.path, np.random.default_rng(one.seed)
    content = bytearray(path.read_bytes())
    if one.kind == "flip":
        content[rng.integers(len(content))] ^= 1 << rng.integers(8)
        path.write_bytes(content)
    elif one.kind == "cut":
        path.write_bytes(content[: rng.integers(1, len(content))])
    elif one.kind == "empty":
        path.write_bytes(b"")
    elif one.kind == "sibling":
        others = [other for other in sorted(folder.glob(f"results/**/*{path.suffix}")) if other != path]
        alike = [other for other in others if other.name == path.name] or others
        path.write_bytes(alike[rng.integers(len(alike))].read_bytes())
    else:
        return _rewrite(path, one.kind)
    return True


def _rewrite(path: Path, kind: str) -> bool:
    if path.suffix == ".safetensors":
        tensors = load_tensors(path) if kind == "columns" else {}
        save_tensors({name.replace("/0/", "/9/"): array for name, array in tensors.items()}, path, {})
        return True
    table, about = pq.read_table(path), read_metadata(path)
    if kind == "no rows" and (not table.num_rows or _may_be_empty(path)):
        return False
    table = table.drop_columns(table.column_names[-1:]) if kind == "columns" else table.slice(0, 0)
    write_table(table, path, None, about)
    return True


def _may_be_empty(path: Path) -> bool:
    """Whether a table has no rows in some runs by right; those of thetas are of two stages, and not of the report."""
    stage = next(
        part for part, before in zip(path.parts[1:], path.parts, strict=False) if before == "results"
    )
    schema = SCHEMAS.get(stage, {}).get(path.stem)
    return path.stem == "thetas" or (schema is not None and schema.metadata == MAY_BE_EMPTY)


def outcome(one: Damage, jobs: Sequence[dict], folder: Path) -> str | None:
    """What the job makes of the damage, and its message; the file is then as it was."""
    path, job = folder / one.path, jobs[one.job]
    whole, times = path.read_bytes(), path.stat()
    with tempfile.TemporaryDirectory(dir=folder.parent) as out, chdir(folder):
        try:
            if not damage(one, folder):
                return None
            outputs = {name: str(Path(out) / file) for name, file in job["outputs"].items()}
            _do(job, outputs)
        except GhostKVError as error:
            return (
                REFUSED
                if path.name in str(error)
                else f"{FOREIGN}: a message without the file's name: {error}"
            )
        except BaseException as error:
            return f"{FOREIGN}: {type(error).__name__}: {error}"
        else:
            same = all(_same(outputs[name], file) for name, file in job["outputs"].items())
            return SAME if same else SILENT
        finally:
            path.write_bytes(whole)
            os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def _do(job: dict, outputs: dict[str, str]) -> None:
    for file in outputs.values():
        Path(file).parent.mkdir(parents=True, exist_ok=True)
    params, threads = SimpleNamespace(run=job["params"]), job["threads"]
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        run(SimpleNamespace(params=params, input=job["inputs"], output=outputs, threads=threads))


def _same(made: str, before: str) -> bool:
    """Whether a job wrote what it wrote before: the same bytes, or the same table but for what is measured in time."""
    if Path(made).is_dir() or Path(made).read_bytes() == Path(before).read_bytes():
        return True
    if not made.endswith(".parquet"):
        return False
    one, other = (pq.read_table(file) for file in (made, before))
    kept = [name for name in other.column_names if not name.endswith("seconds")]
    return one.column_names == other.column_names and one.select(kept).equals(other.select(kept))


def tried(every: Sequence[Damage], jobs: Sequence[dict], folder: Path) -> list[tuple[Damage, str]]:
    """All damages, one after the other, in a folder that is theirs alone."""
    return [(one, said) for one in every if (said := outcome(one, jobs, folder))]


def _in_a_copy(every: Sequence[Damage], jobs: Sequence[dict], folder: Path) -> list[tuple[Damage, str]]:
    # Beside the run: the paths of what lies outside of it are relative.
    copy = Path(tempfile.mkdtemp(prefix="damaged_", dir=folder.parent))
    try:
        shutil.copytree(
            folder, copy, symlinks=True, dirs_exist_ok=True, ignore=shutil.ignore_patterns(".snakemake")
        )
        return tried(every, jobs, copy)
    finally:
        shutil.rmtree(copy)


def table(found: Sequence[tuple[Damage, str]]) -> str:
    """Counts by sort of file and by kind of damage, in Markdown."""
    lines = []
    for title, key in (("File", lambda one: one.group), ("Damage", lambda one: one.kind)):
        lines += [
            f"| {title} | damages | {REFUSED} | {SAME} | {SILENT} | {FOREIGN} |",
            "|:--|--:|--:|--:|--:|--:|",
        ]
        names = sorted({key(one) for one, _ in found})
        for name in [*names, "all"]:
            said = Counter(what.partition(":")[0] for one, what in found if name in ("all", key(one)))
            counts = [said.total(), *(said[what] for what in (REFUSED, SAME, SILENT, FOREIGN))]
            lines.append(f"| {name} | {' | '.join(map(str, counts))} |")
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    """Make the tiny run, damage all that its jobs read, and print the counts; fail where one damage went unseen."""
    from tests.workflow.conftest import SERVER, copy_project

    parser = argparse.ArgumentParser(prog="python -m tests.workflow.damages", description=main.__doc__)
    parser.add_argument("--base", type=Path, help="where the run is made or lies, as `copy` and `run`")
    parser.add_argument(
        "--rounds", type=int, default=1, help="how often each kind of damage is done to each file"
    )
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        base = chosen.base or Path(place)
        if not (base / "run/results/report").exists():
            copy_project(base / "copy", base / "run").snakemake("--", "results")
            SERVER.close()
        jobs = planned(base / "copy/Snakefile", base / "run", "results")
        every = list(damages(readers(jobs, base / "run"), chosen.rounds))
        # Jobs of one rule one after the other: what numba compiled is then loaded once.
        every.sort(key=lambda one: jobs[one.job]["rule"])
        parts = [every[: len(every) // 2], every[len(every) // 2 :]]
        with ProcessPoolExecutor(2) as pool:
            found = [
                *itertools.chain.from_iterable(pool.map(_in_a_copy, parts, [jobs] * 2, [base / "run"] * 2))
            ]
    print(table(found))
    unseen = [f"{one}: {said}" for one, said in found if said not in (REFUSED, SAME)]
    sys.exit("\n".join(unseen) or 0)


if __name__ == "__main__":
    main()
