"""Text out of bytes: UTF-8 alone, its mark at the start taken off, and no control characters."""

from __future__ import annotations

import re
from pathlib import Path

# A hundred times what a million tokens take. Beyond it a file is no text that anything here reads.
LARGEST = 1 << 28
_MARK = "\ufeff"
# White space stays, form feeds among it. Half a surrogate pair comes from JSON alone, and no file can hold it.
_CONTROL = re.compile("[\x00-\x08\x0e-\x1f\x7f\ud800-\udfff\ufffe\uffff]")


def decoded(raw: bytes) -> str:
    """UTF-8 as text, without the mark that some editors put first; a UnicodeDecodeError for anything else."""
    return unmarked(raw.decode())


def unmarked(content: str) -> str:
    """A text without the mark that its file had first, or the marks, where one editor met the mark of another."""
    return content.lstrip(_MARK)


def control_in(content: str) -> str | None:
    """The first control character of a text and its place, as messages put it; None where there is none."""
    found = _CONTROL.search(content)
    if found is None:
        return None
    line = content.count("\n", 0, found.start()) + 1
    return f"the control character U+{ord(found[0]):04X} at character {found.start():,} (line {line:,})"


def small(path: Path) -> Path:
    """The path of a file of at most `LARGEST` bytes; a ValueError for a larger one."""
    if path.stat().st_size > LARGEST:
        raise ValueError(f"{path.stat().st_size:,} bytes, more than {LARGEST:,}")
    return path


def read_plain(path: Path) -> str:
    """The text of a file; a ValueError (of which a UnicodeDecodeError is one) or OSError where it is none."""
    if not path.is_file():
        raise OSError("no such file" if not path.exists() else "not a file")
    content = decoded(small(path).read_bytes())
    if control := control_in(content):
        raise ValueError(f"it holds {control}")
    return content
