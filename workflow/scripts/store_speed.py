from ghostkv.files.logs import job

with job(snakemake):
    from ghostkv.stages.store.timing import time_store

    time_store(snakemake.params.run, dict(snakemake.output.items()))
