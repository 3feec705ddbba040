"""Stage `model`: fetch a model once, verified, into one folder."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ghostkv.files.io import write_json
from ghostkv.models.fetch import bring, describe
from ghostkv.sources.entries import ModelEntry


def fetch_model(
    entry: Mapping[str, Any], name: str, output: str | Path, downloads: str | Path | None = None
) -> None:
    """Make `{folder of output}` a complete model folder with a manifest.

    Parameters
    ----------
    entry : mapping
        `registry.resolve_model(...).plain()`.
    name : str
        The model's name; recorded in the manifest.
    output : str or Path
        `resources/models/{name}/manifest.json`.
    downloads : str or Path, optional
        Where wheels are kept; `downloads` beside the folder `models` where left out.

    Raises
    ------
    ModelError
        The source fails, or the model's shape is not the stated one. The folder is then absent.

    Notes
    -----
    The model is built in a hidden folder beside the target and renamed when complete, so a kill leaves no
    half a model.
    """
    output = Path(output)
    target = output.parent
    downloads = Path(downloads) if downloads else target.parent.parent / "downloads"
    target.parent.mkdir(parents=True, exist_ok=True)
    for leftover in target.parent.glob(f".{target.name}.*.part"):
        shutil.rmtree(leftover)
    building = target.parent / f".{target.name}.{os.getpid()}.part"
    building.mkdir()
    try:
        model = ModelEntry.model_validate(dict(entry))
        bring(model, name, building, downloads)
        write_json(describe(building, model, name), building / output.name)
        for file in building.iterdir():
            file.chmod(0o644)
        # The manifest goes first: a folder without one counts as no model, should the removal be interrupted.
        output.unlink(missing_ok=True)
        shutil.rmtree(target, ignore_errors=True)
        os.rename(building, target)
    finally:
        shutil.rmtree(building, ignore_errors=True)
