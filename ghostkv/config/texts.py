"""Section `texts`: what the model reads."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import StringConstraints, model_validator

from ghostkv.config.base import Place, Section, Seed, once, setting
from ghostkv.config.words import flow
from ghostkv.files.errors import ConfigError

Role = Literal["codec", "threshold", "held_out"]
ROLES: tuple[Role, ...] = ("codec", "threshold", "held_out")
# The name of a text is {domain}_{role}_{number}, and a folder is named by it.
# Part of a path in the data set, and no way out of it.
PartName = Annotated[str, StringConstraints(pattern=r"^[^./\\][^/\\]*$", max_length=200)]
Domain = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]*$", max_length=64)]


class PerRole(Section):
    """Texts of each domain in each role."""

    codec: int = setting(1, "Texts of each domain that fit the codecs.", ge=0, le=1000)
    threshold: int = setting(1, "Texts of each domain that choose the thresholds.", ge=0, le=1000)
    held_out: int = setting(3, "Texts of each domain that are measured.", ge=0, le=1000)


class CustomText(Section):
    """A text of your own, in one role."""

    domain: Domain = setting(..., "What kind of text it is; the report breaks figures down by it.")
    role: Role = setting(..., "codec, threshold or held_out. No document may serve two roles.")
    path: Place | None = setting(None, "A UTF-8 text file.")
    hub: str | None = setting(None, "A Hugging Face data set id, in place of path.")
    subset: PartName | None = setting(None, "Configuration of the data set.")
    split: PartName = setting("test", "Split of the data set.")
    column: str = setting("text", "Column that holds the text.")
    row: int = setting(0, "Row to take.", ge=0, lt=1 << 32)
    revision: str | None = setting(None, "Commit of the data set. Pin it to repeat a run.")

    @model_validator(mode="after")
    def _one_source(self) -> CustomText:
        if (self.path is None) == (self.hub is None):
            raise ConfigError(
                f"config: texts.custom ({self.domain}, {self.role}) needs either `path` or `hub`, and has "
                f"{'neither' if self.path is None else 'both'}.\n"
                f"  Write: {{domain: {flow(self.domain)}, role: {self.role}, path: /data/mine.txt}}"
            )
        return self


class Texts(Section):
    """What the model reads."""

    domains: Annotated[list[Domain], once()] = setting(
        ["essays", "qa", "code", "json"],
        "Domains from resources/texts.yaml; empty to use custom texts alone.",
        max_length=100,
    )
    per_role: PerRole = setting(
        PerRole(),
        "Texts of each domain in each role: codec fits codecs, threshold chooses thresholds, held_out is measured. Roles "
        "share no document. A domain has a limited number of documents.",
    )
    custom: list[CustomText] = setting(
        [], "Your own texts, as {domain: law, role: held_out, path: /data/contract.txt}.", max_length=10_000
    )
    seed: Seed = setting(0, "Which documents fall to which role.")

    @model_validator(mode="after")
    def _every_role_is_filled(self) -> Texts:
        if not self.domains and not self.custom:
            raise ConfigError(
                "config: texts.domains and texts.custom are both empty.\n  Write: texts: {domains: [essays]}"
            )
        return self
