from pathlib import Path

from ghostkv.files.logs import job

with job(snakemake):
    from ghostkv.stages.retrieval.task import answer

    files = {"model": str(Path(snakemake.input.manifest).parent)}
    files |= {"samples": snakemake.input.samples, "thetas": snakemake.input.thetas}
    answer(snakemake.params.run, snakemake.wildcards.job, files, snakemake.output.answers)
