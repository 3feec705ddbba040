from ghostkv.files.logs import job

with job(snakemake):
    from ghostkv.stages.sketch.layer import sketch_layer

    sketch_layer(
        snakemake.params.run["captures"],
        int(snakemake.wildcards.layer),
        snakemake.params.run,
        dict(snakemake.output.items()),
    )
