from ghostkv.files.logs import job

with job(snakemake):
    from ghostkv.stages.benchmark.sweep_speed import sweep_speed

    sweep_speed(snakemake.params.run, snakemake.output.table)
