"""What quality's jobs share: token ids of a text, and where policies take their parts from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ghostkv.files.errors import TextError
from ghostkv.runtime.sources import Sources

if TYPE_CHECKING:
    from ghostkv.models.tokenizer import ModelTokenizer
    from ghostkv.stages.quality.jobs import FittedJob, QualityTexts


def token_ids(tokenizer: ModelTokenizer, content: str, text: str, job: QualityTexts) -> list[int]:
    """A text's tokens up to the end of its continuation, and one more if there is one: the last position's next token."""
    wanted = job.context + job.continuation
    ids = tokenizer.first(content, wanted + 1)
    if len(ids) < wanted:
        raise TextError(
            f"text {text!r} has {len(ids)} tokens with this model's tokenizer, fewer than the {wanted} that its context "
            f"({job.context}) and quality.continuation ({job.continuation}) take together.\n"
            f"  Write: tokens: {len(ids)}   (under capture), or longer texts"
        )
    return ids


def sources_of(job: FittedJob, inputs: Mapping[str, Any]) -> Sources:
    """Sources of a model all of whose layers were captured."""
    return Sources.read(job, inputs)
