from ghostkv.files.logs import job

with job(snakemake):
    from ghostkv.stages.bandwidth.patterns import survivor_patterns

    survivor_patterns(dict(snakemake.input.items()), snakemake.params.run, snakemake.output.table)
