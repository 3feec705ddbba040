# A capture per text: from a forward pass of the model, or from tensors that a lab already has.


rule capture_text:
    input:
        manifest=f"{MODEL_FOLDER}/manifest.json",
        texts="results/texts/texts.parquet",
    output:
        **capture_files(),
    log:
        "results/logs/capture/{text}.log",
    benchmark:
        "results/logs/capture/{text}.tsv"
    wildcard_constraints:
        text=one_of(name for name in TEXTS if name not in IMPORTS),
    # The forward passes are the longest path: start them before anything else.
    priority: 10
    conda:
        "../../environment.yml"
    threads: CONFIG.capture.threads
    resources:
        # Peak 1.4 GB at 4,096 tokens: weights, and the proof of one layer. A larger model needs
        # its weights on top: --set-resources capture_text:mem_mb=32000
        mem_mb=2000,
    params:
        run=stage_params("capture", "capture.text"),
    script:
        "../scripts/capture_text.py"


rule import_tensors:
    input:
        tensors=imported_files,
    output:
        **capture_files(),
    log:
        "results/logs/capture/{text}.log",
    benchmark:
        "results/logs/capture/{text}.tsv"
    wildcard_constraints:
        text=one_of(IMPORTS),
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        # One layer at a time.
        mem_mb=2000,
    params:
        run=import_params,
    script:
        "../scripts/import_tensors.py"
