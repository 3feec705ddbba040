from os.path import dirname

from ghostkv.files.logs import job

with job(snakemake):
    from ghostkv.stages.benchmark.capture_overhead import capture_overhead

    capture_overhead(
        dirname(snakemake.input.manifest),
        snakemake.input.texts,
        snakemake.params.run,
        snakemake.output.table,
        snakemake.threads,
    )
