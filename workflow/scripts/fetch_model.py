from ghostkv.files.logs import job

with job(snakemake):
    from ghostkv.stages.model.fetch import fetch_model

    fetch_model(snakemake.params.run["entry"], snakemake.params.run["name"], snakemake.output.manifest)
