"""What the jobs of `store` depend on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ghostkv.codecs.base import RHO_BYTES
from ghostkv.codecs.sizes import code_bytes
from ghostkv.files.jobs import Job
from ghostkv.stages.store.schemas import TIME_SCHEMAS, TRIAL_SCHEMAS

if TYPE_CHECKING:
    from ghostkv.stages.run import Run


def _record_bytes(run: Run) -> int:
    return code_bytes(run.config.store.bits, run.config.store.head_dim) + RHO_BYTES


@dataclass(frozen=True)
class TryStore(Job):
    """How a store is killed and damaged; see the config section `store`."""

    call = "ghostkv.stages.store.trials.try_store"
    tables = tuple(TRIAL_SCHEMAS)
    sections = ("store",)

    kv_heads: int
    head_dim: int
    record_bytes: int
    seed: int
    kill_points: int
    kill_delays: int
    kill_layers: int
    kill_tokens: int
    kill_segment_tokens: int
    corruptions: int

    @classmethod
    def of(cls, run: Run) -> TryStore:
        return cls.taken(run, record_bytes=_record_bytes(run))


@dataclass(frozen=True)
class TimeStore(Job):
    """What is timed of a store; see the config section `store`."""

    call = "ghostkv.stages.store.timing.time_store"
    tables = tuple(TIME_SCHEMAS)
    sections = ("store",)

    kv_heads: int
    head_dim: int
    record_bytes: int
    seed: int
    gather_tokens: int
    batches: tuple[int, ...]
    run_tokens: int
    repeats: int
    append_layers: int
    append_batches: tuple[int, ...]
    append_tokens: int

    @classmethod
    def of(cls, run: Run) -> TimeStore:
        return cls.taken(run, record_bytes=_record_bytes(run))
