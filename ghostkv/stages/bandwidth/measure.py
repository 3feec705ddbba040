"""Stage `bandwidth`, first half: real survivors' index patterns, and this machine's memory and disk measured."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ghostkv.files.io import read_table
from ghostkv.files.provenance import inherited
from ghostkv.files.tables import write_rows
from ghostkv.stages.bandwidth.bench import Bench, Comparisons, disk_configurations, dram_configurations
from ghostkv.stages.bandwidth.probes import DiskFile, Memory
from ghostkv.stages.bandwidth.schemas import COUNT_SCHEMA, DIRECT, DROPPED, PATTERN_SCHEMA, SAMPLE_SCHEMA
from ghostkv.stages.bandwidth.store_bench import store_configurations

if TYPE_CHECKING:
    from ghostkv.stages.bandwidth.jobs import MeasureMemory

# A working set with small pages, whose accessed bits are counted.
_COUNTED_BYTES = 1 << 26


def measure(job: MeasureMemory, inputs: Mapping[str, str], outputs: Mapping[str, str]) -> None:
    """Time gathers from this machine's memory, disk and store, and count what they touch.

    The file and the store on disk lie beside the outputs, and are removed. Disk and store are left out where their
    file system keeps pages that are dropped (tmpfs).
    """
    patterns, options = inputs["patterns"], job.measure
    table, folder = read_table(patterns, PATTERN_SCHEMA), Path(outputs["samples"]).parent
    tokens = int(table["tokens"].max())
    survivors = [np.asarray(row, np.int64) for row in table["survivors"].to_list() if len(row)]
    if not survivors:  # a design that eliminates everything leaves no index to read
        survivors = [np.zeros(1, np.int64)]
    bench, counts = Bench(options), Comparisons()
    memory = Memory(options.memory_mb << 20)
    disk = DiskFile(folder / ".measured.bin", options.file_mb << 20)
    store_folder = folder / ".measured_store"
    try:
        cold = disk.cold()
        print(f"O_DIRECT {disk.direct}, page cache dropped {cold}", flush=True)
        dram_configurations(bench, memory, survivors, tokens)
        on_disk = nullcontext()
        if cold:  # else the files lie in memory, and their times would pass for those of a disk
            disk_configurations(bench, disk, survivors, tokens)
            on_disk = store_configurations(bench, counts, store_folder, survivors, tokens)
        with on_disk:
            samples = bench.run()
        memory.close()
        small = Memory(min(_COUNTED_BYTES, options.memory_mb << 20), huge=False)
        counts.memory(small, survivors, tokens, options)
        small.close()
        counts.disk(disk, survivors, tokens, options)
    finally:
        disk.close()
    # What the report says of tiers that are missing.
    metadata = inherited(patterns, job.code) | {DROPPED: str(cold).lower(), DIRECT: str(disk.direct).lower()}
    write_rows(samples, outputs["samples"], SAMPLE_SCHEMA, metadata)
    write_rows(counts.rows, outputs["counts"], COUNT_SCHEMA, metadata)
