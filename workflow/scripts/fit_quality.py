from ghostkv.files.logs import job

with job(snakemake):
    from ghostkv.stages.quality.thetas import fit_thetas

    fit_thetas("results/sketch", snakemake.params.run, snakemake.output.thetas)
