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
        mem_mb=2500,
    params:
        run=stage_params("model"),
    script:
        "../scripts/fetch_model.py"
