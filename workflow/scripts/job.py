from ghostkv.files.logs import job

with job(snakemake):
    from ghostkv.files.jobs import run

    run(snakemake)
