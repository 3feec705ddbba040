from ghostkv.files.logs import job

with job(snakemake):
    from ghostkv.stages.frontier.gather import gather

    gather(dict(snakemake.input.items()), snakemake.params.run, dict(snakemake.output.items()))
