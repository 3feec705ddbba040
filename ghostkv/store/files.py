"""All writes of a store go through here, so that a test can stop them at any byte."""

from __future__ import annotations

import os
from pathlib import Path


class Files:
    """Plain writes. The kill experiment replaces this by one that dies after so many bytes."""

    def write(self, descriptor: int, data, offset: int) -> None:
        """Write all of `data` at `offset`."""
        view = memoryview(data).cast("B")
        while len(view):
            done = os.pwrite(descriptor, view, offset)
            view, offset = view[done:], offset + done

    def truncate(self, descriptor: int, size: int) -> None:
        """Cut the file to `size` bytes."""
        os.ftruncate(descriptor, size)

    def sync(self, descriptor: int) -> None:
        """Return when what was written is on the disk and not only in the page cache."""
        os.fdatasync(descriptor)

    def create(self, path: Path, data: bytes, sync: bool) -> None:
        """Make a file that is either complete or not there."""
        temporary = path.parent / f".{path.name}.{os.getpid()}.part"
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
        try:
            self.write(descriptor, data, 0)
            if sync:
                self.sync(descriptor)
            os.replace(temporary, path)
        finally:
            os.close(descriptor)
            temporary.unlink(missing_ok=True)
        if sync:
            sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_at(descriptor: int, size: int, offset: int) -> bytes:
    """Up to `size` bytes at `offset`; fewer where the file ends."""
    parts = []
    while size > 0 and (part := os.pread(descriptor, size, offset)):
        parts.append(part)
        size, offset = size - len(part), offset + len(part)
    return b"".join(parts)


def read_into(descriptor: int, buffer, offset: int) -> int:
    """Fill `buffer` from `offset`; the bytes read, fewer where the file ends."""
    view, done = memoryview(buffer).cast("B"), 0
    while done < len(view) and (part := os.preadv(descriptor, [view[done:]], offset + done)):
        done += part
    return done
