from os.path import dirname

from ghostkv.files.logs import job

with job(snakemake):
    from ghostkv.stages.historical.run import run

    run(
        dirname(snakemake.input.manifest),
        snakemake.input.texts,
        snakemake.params.run["captures"],
        snakemake.params.run,
        dict(snakemake.output.items()),
    )
