from os.path import dirname

from ghostkv.files.logs import job

with job(snakemake):
    from ghostkv.stages.texts.assemble import assemble_texts

    assemble_texts(
        snakemake.params.run,
        snakemake.output.texts,
        dirname(snakemake.input.manifest),
        dirname(snakemake.input.registry),
    )
