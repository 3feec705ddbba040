"""Working folders and clocks as they are."""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import replace

SKETCH = "results/sketch/layer_00/records.parquet"
KEYS = "results/capture/prose_codec_0/kv.parquet"


def test_a_folder_of_any_name_with_results_on_another_disk_works(project, tmp_path):
    run = project.copied_run()
    # Beside the first: from elsewhere the registries have another path.
    odd = replace(run, folder=run.folder.rename(run.folder.with_name("wörk it's 数据")))
    try:
        shutil.move(odd.folder / "results", tmp_path / "elsewhere")
        (odd.folder / "results").symlink_to(tmp_path / "elsewhere")
        before = (odd.folder / SKETCH).read_bytes()
        shutil.rmtree((odd.folder / SKETCH).parent)
        odd.snakemake("--", SKETCH)
        assert (odd.folder / SKETCH).read_bytes() == before
        assert odd.planned("--", SKETCH) == {}
    finally:
        shutil.rmtree(odd.folder)


def test_an_input_from_the_future_reruns_nothing_or_is_named_with_its_cure(project):
    run = project.copied_run()
    later = time.time() + 7200
    os.utime(run.folder / KEYS, (later, later))
    assert run.planned("--", SKETCH) == {}
    shutil.rmtree((run.folder / SKETCH).parent)
    done = run.snakemake("--", SKETCH, check=False)
    assert done.returncode == 1
    assert f"touch '{KEYS}'" in done.stdout
    os.utime(run.folder / KEYS)
    run.snakemake("--", SKETCH)
