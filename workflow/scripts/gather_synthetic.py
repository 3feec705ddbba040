from ghostkv.files.logs import job

with job(snakemake):
    from ghostkv.stages.synthetic.gather import gather

    gather(dict(snakemake.input.items()), dict(snakemake.output.items()))
