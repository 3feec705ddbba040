"""Store: killed at random points, damaged at random offsets, and timed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ghostkv.files.provenance import metadata
from ghostkv.files.scratch import scratch_folder
from ghostkv.files.tables import write_rows
from ghostkv.stages.store.damage import damage
from ghostkv.stages.store.kills import Trials
from ghostkv.stages.store.schemas import CORRUPTION_SCHEMA, KILL_SCHEMA
from ghostkv.stages.store.workload import Contents, store_shape
from ghostkv.store import GhostStore

if TYPE_CHECKING:
    from ghostkv.stages.store.jobs import TryStore

# Rows of contents; a prime, so that no two segments hold the same.
_ROWS = 251


def try_store(job: TryStore, inputs: Mapping[str, str], outputs: Mapping[str, str]) -> None:
    """Kill append workloads and damage stores, and see what is left of each.

    The stores lie beside the outputs while they are tried, so that it is that disk's behaviour that is measured.
    """
    shape = store_shape(job, job.kill_layers, job.kill_segment_tokens)
    contents = Contents.random(shape, _ROWS, job.seed)
    with scratch_folder(Path(outputs["kills"]).parent, "trial") as folder:
        # Compiled here, once, and not in every child.
        _warm(folder / "warm", contents)
        trials = Trials(folder, contents, job.kill_tokens, job.seed)
        kills = [*trials.at_bytes(job.kill_points), *trials.after_delays(job.kill_delays)]
        survived = sum(row["survived"] for row in kills)
        print(f"{len(kills)} kills, {survived} survived", flush=True)
        tokens = 5 * shape.segment_tokens + shape.segment_tokens // 2 + 1
        found = list(damage(folder, contents, tokens, job.corruptions, job.seed))
        silent = sum(row["outcome"] == "silent" for row in found)
        print(f"{len(found)} corruptions, {silent} silent", flush=True)
    write_rows(kills, outputs["kills"], KILL_SCHEMA, metadata(job.code))
    write_rows(found, outputs["corruptions"], CORRUPTION_SCHEMA, metadata(job.code))


def _warm(folder: Path, contents: Contents) -> None:
    with GhostStore.create(folder, contents.shape) as store:
        store.append(*contents.tokens(0, 3))
        contents.same(store, 3)
