"""Stage `texts`: choose the documents that the model reads, and write them down."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ghostkv.files import provenance
from ghostkv.files.io import write_table
from ghostkv.models.tokenizer import load_tokenizer
from ghostkv.sources.documents import Document, read_documents, read_own
from ghostkv.sources.downloads import PipDownload
from ghostkv.sources.opening import opening
from ghostkv.sources.texts import TEXT_SCHEMA, Encode, Pool, make_texts, text_table

if TYPE_CHECKING:
    from ghostkv.stages.texts.jobs import AssembleTexts


def assemble_texts(
    job: AssembleTexts, inputs: Mapping[str, str], outputs: Mapping[str, str], pip: PipDownload | None = None
) -> None:
    """Write `texts.parquet`, one row per text (columns of `TEXT_SCHEMA`); lengths are counted in the fetched model's
    own tokens.

    Raises TextError where a source cannot be fetched; a text is too short, repeats itself, or shares a document with
    another.
    """
    names, downloads = job.names, Path(job.downloads)
    domains = sorted({entry["domain"] for entry in names.values() if not entry.get("custom")})
    sources = {domain: job.sources[domain] for domain in domains}
    pools = {
        domain: Pool(
            domain,
            read_documents(domain, sources[domain], downloads, pip),
            sources[domain].origin(),
            sources[domain].license,
        )
        for domain in domains
    }
    folder = Path(inputs["manifest"]).parent
    tokenizer = load_tokenizer(folder)

    def encode(content: str) -> np.ndarray:
        return np.asarray(tokenizer.encode(content), np.int64)

    own = {
        name: _own(entry, entry.get("tokens") or job.tokens, encode)
        for name, entry in names.items()
        if entry.get("custom")
    }
    texts = make_texts(names, pools, own, job.tokens, encode, job.seed)
    metadata = provenance.metadata(job.code, tokenizer=folder.name)
    write_table(text_table(texts), outputs["texts"], TEXT_SCHEMA, metadata)


def _own(entry: Mapping[str, Any], tokens: int, encode: Encode) -> tuple[Document, str]:
    """A text of the user's own, of which no more is kept than is read, and where it comes from."""
    document, origin = read_own(entry["custom"])
    return replace(document, content=opening(document.content, tokens, encode)), origin
