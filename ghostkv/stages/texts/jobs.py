"""What the job of `texts` depends on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ghostkv.files.jobs import Job
from ghostkv.sources.documents import TextSource

if TYPE_CHECKING:
    from ghostkv.stages.run import Run


@dataclass(frozen=True)
class AssembleTexts(Job):
    """Which texts a run reads, and how long they are.

    Attributes
    ----------
    names : dict
        Text -> its domain, role and, for a text of the user's own, its entry in the config.
    sources : dict
        Domain -> where its documents are kept.
    downloads : str
        Folder where wheels are kept.
    """

    call = "ghostkv.stages.texts.assemble.assemble_texts"

    names: dict[str, dict[str, Any]]
    tokens: int
    seed: int
    sources: dict[str, TextSource]
    downloads: str = "resources/downloads"

    @classmethod
    def of(cls, run: Run) -> AssembleTexts:
        sources = {name: source.model_copy(update={"about": None}) for name, source in run.sources.items()}
        return cls(run.texts | run.trace, run.config.capture.tokens, run.config.texts.seed, sources)
