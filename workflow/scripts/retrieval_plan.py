from pathlib import Path

from ghostkv.files.logs import job

with job(snakemake):
    from ghostkv.stages.retrieval.plan import plan

    files = {"tokenizer": str(Path(snakemake.input.manifest).parent)}
    files |= {"texts": snakemake.input.texts, "tasks": snakemake.input.tasks}
    plan(snakemake.params.run, files, dict(snakemake.output.items()))
