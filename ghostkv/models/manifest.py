"""The manifest of a fetched model: what it is, and the checksum of each of its files, verified whenever they are read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ghostkv.files.errors import ModelError
from ghostkv.files.io import sha256_file, write_json

MANIFEST = "manifest.json"
_WEIGHTS = ".safetensors"


def write_manifest(folder: str | Path, facts: Mapping[str, Any]) -> None:
    """Write `manifest.json` into a model folder.

    `facts` are its keys but for `files` (name -> SHA-256), `weight_sha256` (that of the one file of weights, or of the
    list of names and checksums of several) and `manifest_sha256` (of all the rest).
    """
    folder = Path(folder)
    files = {file.name: sha256_file(file) for file in sorted(folder.iterdir()) if file.name != MANIFEST}
    weights = {name: digest for name, digest in files.items() if name.endswith(_WEIGHTS)}
    listed = "\n".join(f"{name} {digest}" for name, digest in weights.items())
    whole = hashlib.sha256(listed.encode()).hexdigest() if len(weights) != 1 else weights.popitem()[1]
    known = {**facts, "files": files, "weight_sha256": whole}
    write_json(known | {"manifest_sha256": _digest(known)}, folder / MANIFEST)


def read_manifest(folder: str | Path) -> dict[str, Any]:
    """The manifest of a model folder.

    Raises
    ------
    ModelError
        There is none, or it is not as it was written.
    """
    path = Path(folder) / MANIFEST
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found.pop("manifest_sha256") != _digest(found):
            raise ValueError("its content no longer has the checksum that it states")
        return found
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise ModelError(f"{path}: damaged or edited ({error}).{_anew(folder)}") from error


def verify(folder: str | Path, weights: bool = True) -> None:
    """Compare the files of a fetched model with their checksums; a folder without a manifest was not fetched.

    Parameters
    ----------
    weights : bool
        Also the weights; without them it takes a few milliseconds.

    Raises
    ------
    ModelError
        A file is missing or was changed or added since the fetch.
    """
    folder = Path(folder)
    if not (folder / MANIFEST).exists():
        return
    files = read_manifest(folder)["files"]
    # Whatever lies in the folder may be read by transformers: an adapter, a template.
    present = {file.name for file in folder.iterdir() if not file.name.startswith(".")} - {MANIFEST}
    for name in sorted(files.keys() | present):
        if name not in present:
            found = "is missing"
        elif name not in files:
            found = "was added"
        elif (weights or not name.endswith(_WEIGHTS)) and _sha256(folder / name) != files[name]:
            found = "was damaged or edited: its content no longer has the checksum in the manifest"
        else:
            continue
        raise ModelError(f"{folder / name} {found} since the model was fetched.{_anew(folder)}")


def _sha256(path: Path) -> str:
    try:
        return sha256_file(path)
    except OSError as error:
        return str(error)


def _digest(facts: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _anew(folder: str | Path) -> str:
    return f"\n  Make it anew: snakemake --cores 1 --force {Path(folder) / MANIFEST}"
