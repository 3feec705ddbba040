from ghostkv.files.logs import job

with job(snakemake):
    from ghostkv.stages.frontier.layer import sweep_layer

    sweep_layer(
        snakemake.params.run["captures"],
        dict(snakemake.input.items()),
        int(snakemake.wildcards.layer),
        snakemake.params.run,
        dict(snakemake.output.items()),
    )
