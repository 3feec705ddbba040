"""Captured texts: which there are, what each may be used for, and the queries that a stage measures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ghostkv.captures.capture_files import LayerCapture, capture_metadata
from ghostkv.files.errors import ConfigError


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
    return shared | {"texts": ",".join(text.text for text in texts), "fingerprint": fingerprint}


def _measured_texts(texts: Sequence[CapturedText]) -> list[CapturedText]:
    for role in ("threshold", "held_out"):
        if not any(text.role == role for text in texts):
            raise ConfigError(f"texts: no text has the role {role!r}; set texts.per_role.{role}: 1")
    return [text for text in texts if text.role != "codec"]


def _from_position(capture: LayerCapture, text: CapturedText, start: int) -> LayerCapture:
    """A capture with its queries from position `start` on."""
    wanted = capture.positions >= start
    if not wanted.any():
        raise ConfigError(
            f"frontier.headline_start is {start}, but the last captured query of {text.text} is at "
            f"{capture.positions.max()}; write a smaller headline_start, or raise capture.tokens "
            "and query_bands"
        )
    return replace(
        capture,
        positions=capture.positions[wanted],
        queries=capture.queries[:, wanted],
        outputs=None if capture.outputs is None else capture.outputs[:, wanted],
    )
