from pathlib import Path

from ghostkv.files.logs import job

with job(snakemake):
    from ghostkv.stages.quality.speed import time_decode

    time_decode(
        str(Path(snakemake.input.manifest).parent),
        snakemake.input.texts,
        snakemake.params.run["texts"][0],
        snakemake.input.thetas,
        "results/sketch",
        snakemake.params.run,
        snakemake.output.table,
        snakemake.threads,
    )
