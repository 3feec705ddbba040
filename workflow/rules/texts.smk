# The texts: fetched, split into documents, dealt out to roles, cut by the model's own tokenizer.


rule assemble_texts:
    input:
        manifest=f"{MODEL_FOLDER}/manifest.json",
        own=own_files(),
        # Its entries are params, so that another domain's entry reruns nothing.
        registry=ancient(f"{RESOURCES}/texts.yaml"),
    output:
        texts="results/texts/texts.parquet",
    log:
        "results/logs/texts/texts.log",
    benchmark:
        "results/logs/texts/texts.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        # Peak 0.2 GB.
        mem_mb=1000,
    params:
        run=stage_params("texts", "texts.assemble"),
    script:
        "../scripts/assemble_texts.py"
