from ghostkv.files.logs import job

with job(snakemake):
    from ghostkv.stages.peers.gather import gather

    gather(dict(snakemake.input.items()), dict(snakemake.output.items()))
