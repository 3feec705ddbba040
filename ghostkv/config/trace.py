"""Section `trace`: every query of one long text, in order."""

from __future__ import annotations

from ghostkv.config.base import Place, Section, Threads, Tokens, setting
from ghostkv.config.texts import Domain


class Trace(Section):
    """One long held-out text, of which every query of the last part is recorded, as a decode would ask them."""

    domain: Domain | None = setting(None, "Domain of the text; null for the first of texts.domains.")
    path: Place | None = setting(None, "A UTF-8 text file of your own, in place of a document of the domain.")
    tokens: int | None = setting(
        None,
        "Tokens of context; null for twice capture.tokens, or what the model takes.",
        ge=128,
        le=1 << 24,
    )
    steps: Tokens | None = setting(
        None, "Queries recorded, one a token up to the last; null for a quarter of tokens."
    )
    threads: Threads = setting(1, "Threads of the forward pass.")
