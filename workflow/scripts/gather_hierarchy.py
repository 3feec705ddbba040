from ghostkv.files.logs import job

with job(snakemake):
    from ghostkv.stages.hierarchy.gather import gather

    gather(dict(snakemake.input.items()), dict(snakemake.output.items()))
