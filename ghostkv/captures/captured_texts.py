"""Captured texts: which there are, what each may be used for, and the queries that a stage measures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ghostkv.captures.capture_files import LayerCapture, capture_metadata
from ghostkv.files.errors import ConfigError
from ghostkv.files.provenance import metadata


@dataclass(frozen=True)
class CapturedText:
    """One capture and what it may be used for."""

    text: str
    domain: str
    role: str
    folder: str


def sketch_metadata(texts: Sequence[CapturedText], fingerprint: str) -> dict[str, str]:
    """Provenance of a layer's outputs: the captures' own, less what differs per text, plus all text names."""
    shared = {
        key: value
        for key, value in capture_metadata(texts[0].folder).items()
        if key not in ("text", "text_sha256", "fingerprint")
    }
    return shared | metadata(fingerprint, texts=",".join(text.text for text in texts))


def by_role(texts: Sequence[CapturedText], *roles: str) -> dict[str, list[CapturedText]]:
    """The texts of each of these roles, at least one a role."""
    found = {role: [text for text in texts if text.role == role] for role in roles}
    for role, ones in found.items():
        if not ones:
            raise ConfigError(f"texts: no text has the role {role!r}; set texts.per_role.{role}: 1")
    return found


def measured_texts(texts: Sequence[CapturedText]) -> list[CapturedText]:
    """Texts of the roles `threshold` and `held_out`, of each of which there must be one."""
    by_role(texts, "threshold", "held_out")
    return [text for text in texts if text.role != "codec"]


def from_position(capture: LayerCapture, text: CapturedText, start: int) -> LayerCapture:
    """A capture with its queries from position `start` on."""
    wanted = capture.positions >= start
    if not wanted.any():
        raise ConfigError(
            f"frontier.headline_start is {start}, but the last captured query of {text.text} is at "
            f"{capture.positions.max()}; write a smaller headline_start, or raise capture.tokens and query_bands"
        )
    return capture.at(wanted)
