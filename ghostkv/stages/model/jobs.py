"""What the job of `model` depends on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ghostkv.files.jobs import Job
from ghostkv.sources.entries import ModelEntry

if TYPE_CHECKING:
    from ghostkv.stages.run import Run


@dataclass(frozen=True)
class FetchModel(Job):
    """Where the model comes from, and what shape it must have."""

    call = "ghostkv.stages.model.fetch.fetch_model"

    name: str
    entry: ModelEntry
    # The user's own files as they are now; Snakemake itself sees only those that became newer.
    files: tuple[str, ...] = ()

    @classmethod
    def of(cls, run: Run) -> FetchModel:
        entry = run.model.model_copy(update={"about": None})
        return cls(run.config.model.name, entry, entry.file_states())
