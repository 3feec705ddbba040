"""What the jobs of `store` depend on."""

from __future__ import annotations

from dataclasses import dataclass

from ghostkv.files.jobs import Job
from ghostkv.stages.run import Run
from ghostkv.stages.store.schemas import TIME_SCHEMAS, TRIAL_SCHEMAS


@dataclass(frozen=True)
class TryStore(Job):
    """How a store is killed and damaged; see the config section `store`."""

    call = "ghostkv.stages.store.trials.try_store"
    tables = tuple(TRIAL_SCHEMAS)

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
        """The job of a run."""
        return cls(**_of_section(cls, run))


@dataclass(frozen=True)
class TimeStore(Job):
    """What is timed of a store; see the config section `store`."""

    call = "ghostkv.stages.store.timing.time_store"
    tables = tuple(TIME_SCHEMAS)

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
        """The job of a run."""
        return cls(**_of_section(cls, run))


def _of_section(cls: type[Job], run: Run) -> dict[str, object]:
    """The fields that the config section has under the same names."""
    section = run.config.store.plain()
    return {
        name: tuple(section[name]) if isinstance(section[name], list) else section[name]
        for name in cls.__dataclass_fields__
        if name in section
    }
