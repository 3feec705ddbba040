from os.path import dirname

from ghostkv.files.logs import job

with job(snakemake):
    from ghostkv.stages.capture.text import capture_text

    capture_text(
        dirname(snakemake.input.manifest),
        snakemake.input.texts,
        snakemake.wildcards.text,
        snakemake.params.run,
        dict(snakemake.output.items()),
        snakemake.threads,
    )
