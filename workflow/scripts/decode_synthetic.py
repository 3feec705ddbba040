from ghostkv.files.logs import job

with job(snakemake):
    from ghostkv.stages.decode.generated import measure_synthetic

    measure_synthetic(snakemake.params.run, dict(snakemake.output.items()))
