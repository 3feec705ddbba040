from ghostkv.files.logs import job

with job(snakemake):
    from ghostkv.stages.bandwidth.measure import measure

    measure(snakemake.input.patterns, snakemake.params.run, dict(snakemake.output.items()))
