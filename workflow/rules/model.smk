# The model: fetched once, checked, stored as safetensors.


rule fetch_model:
    input:
        MODEL.local_files(),
    output:
        manifest="resources/models/{model}/manifest.json",
    log:
        "results/logs/model/{model}.log",
    benchmark:
        "results/logs/model/{model}.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        # Peak 0.5 GB for the default model; a model from the hub is copied, not loaded.
        mem_mb=2500,
    params:
        run=stage_params("model", "model.fetch"),
    script:
        "../scripts/fetch_model.py"
