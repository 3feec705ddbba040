from ghostkv.files.logs import job

with job(snakemake):
    from pathlib import Path

    from ghostkv.stages.decode.layer import measure_layer

    measure_layer(
        {
            "trace": str(Path(snakemake.input.layers).parent),
            "codecs": snakemake.input.codecs,
            "points": snakemake.input.points,
        },
        int(snakemake.wildcards.layer),
        snakemake.params.run,
        dict(snakemake.output.items()),
    )
