from ghostkv.files.logs import job

with job(snakemake):
    from ghostkv.stages.hierarchy.layer import measure_layer

    measure_layer(
        snakemake.params.run["captures"],
        snakemake.params.run["trace"],
        int(snakemake.wildcards.layer),
        snakemake.params.run,
        dict(snakemake.output.items()),
    )
