from ghostkv.files.logs import job

with job(snakemake):
    from ghostkv.stages.capture.imported import import_tensors

    import_tensors(snakemake.params.run, dict(snakemake.output.items()))
