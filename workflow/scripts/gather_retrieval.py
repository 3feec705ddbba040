from ghostkv.files.logs import job

with job(snakemake):
    from ghostkv.stages.retrieval.gather import gather

    gather(snakemake.params.run, list(snakemake.input), dict(snakemake.output.items()))
