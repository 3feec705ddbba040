from ghostkv.files.logs import job

with job(snakemake):
    from ghostkv.stages.store.trials import try_store

    try_store(snakemake.params.run, dict(snakemake.output.items()))
