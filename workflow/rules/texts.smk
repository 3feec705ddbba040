# The texts: fetched, split into documents, dealt out to roles, cut by the model's own tokenizer.
from ghostkv.stages.texts.jobs import AssembleTexts


rule assemble_texts:
    input:
        manifest=f"{RUN.model_folder}/manifest.json",
        own=RUN.own_files(),
        # Its entries are params, so that another domain's entry reruns nothing.
        registry=ancient(f"{RESOURCES}/texts.yaml"),
    output:
        texts="results/texts/texts.parquet",
    log:
        "results/logs/texts/texts.log",
    # Computing nodes of a cluster may have no network.
    localrule: True
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        **needs("assemble_texts"),
    params:
        run=job_params(AssembleTexts),
    script:
        "../scripts/job.py"
