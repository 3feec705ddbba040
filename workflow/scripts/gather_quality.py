from ghostkv.files.logs import job

with job(snakemake):
    from ghostkv.stages.quality.gather import gather

    gather(dict(snakemake.input.items()), snakemake.params.run, dict(snakemake.output.items()))
