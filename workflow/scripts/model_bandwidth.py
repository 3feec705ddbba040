from ghostkv.files.logs import job

with job(snakemake):
    from ghostkv.stages.bandwidth.model import model_bandwidth

    model_bandwidth(dict(snakemake.input.items()), snakemake.params.run, dict(snakemake.output.items()))
