from ghostkv.files.logs import job

with job(snakemake):
    from ghostkv.stages.synthetic.generator import measure_generator

    measure_generator(snakemake.params.run, dict(snakemake.output.items()))
