from ghostkv.files.logs import job

with job(snakemake):
    from ghostkv.stages.synthetic import measure_generator

    measure_generator(snakemake.params.run, dict(snakemake.output.items()))
