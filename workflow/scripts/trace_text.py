from os.path import dirname

from ghostkv.files.logs import job

with job(snakemake):
    from ghostkv.stages.trace.text import trace_text

    trace_text(
        dirname(snakemake.input.manifest),
        snakemake.input.texts,
        snakemake.params.run,
        dict(snakemake.output.items()),
        snakemake.threads,
    )
