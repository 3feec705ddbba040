"""Section `trace`: every query of one long text, in order."""

from __future__ import annotations

from pydantic import Field

from ghostkv.config.base import PositiveInt, Section
from ghostkv.config.texts import Domain


class Trace(Section):
    """One long held-out text, of which every query of the last part is recorded, as a decode would ask them."""

    domain: Domain | None = Field(
        default=None, description="Domain of the text; null for the first of texts.domains."
    )
    path: str | None = Field(
        default=None, description="A UTF-8 text file of your own, in place of one of the domain's documents."
    )
    tokens: int | None = Field(
        default=None,
        ge=128,
        description=(
            "Tokens of context; null for twice capture.tokens, or the model's longest context where that is less."
        ),
    )
    steps: PositiveInt | None = Field(
        default=None,
        description="Queries recorded, one a token up to the last; null for a quarter of the tokens.",
    )
    threads: PositiveInt = Field(default=1, description="Threads of the forward pass.")
