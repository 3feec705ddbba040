"""What the predecessor published, as files in a folder."""

from __future__ import annotations

from pathlib import Path


def predecessor_files(folder: str | None) -> list[str]:
    """The predecessor's files in a folder: its table, and the tensors that it was made of."""
    found = sorted(Path(folder).glob("gpt2_*.npz")) if folder else []
    return [str(path) for path in [*(Path(folder) / "metrics.csv" for _ in found[:1]), *found]]
