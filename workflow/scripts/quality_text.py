from pathlib import Path

from ghostkv.files.logs import job

with job(snakemake):
    from ghostkv.stages.quality.text import measure_text

    measure_text(
        str(Path(snakemake.input.manifest).parent),
        snakemake.input.texts,
        snakemake.wildcards.text,
        snakemake.input.thetas,
        "results/sketch",
        snakemake.params.run,
        dict(snakemake.output.items()),
        snakemake.threads,
    )
