from ghostkv.files.logs import job

with job(snakemake):
    from ghostkv.stages.peers.layer import measure_layer

    measure_layer(
        snakemake.params.run["captures"],
        dict(snakemake.input.items()),
        int(snakemake.wildcards.layer),
        snakemake.params.run,
        dict(snakemake.output.items()),
    )
