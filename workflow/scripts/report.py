from ghostkv.files.logs import job

with job(snakemake):
    from ghostkv.report.stage import write_report

    write_report(dict(snakemake.input.items()), snakemake.params.run, dict(snakemake.output.items()))
