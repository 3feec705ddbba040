# The model decodes held-out text under elimination: thetas once, a job a text, the timing alone, then intervals.


rule fit_quality:
    input:
        **captures(),
        codecs=per_layer(sketch_files()["codecs"]),
    output:
        thetas="results/quality/thetas.parquet",
    log:
        "results/logs/quality/fit.log",
    benchmark:
        "results/logs/quality/fit.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=2000,
    params:
        run=stage_params("quality", "quality.thetas"),
    script:
        "../scripts/fit_quality.py"


rule quality_text:
    input:
        **captures(),
        manifest=f"{MODEL_FOLDER}/manifest.json",
        texts="results/texts/texts.parquet",
        codecs=per_layer(sketch_files()["codecs"]),
        points="results/frontier/points.parquet",
        thetas="results/quality/thetas.parquet",
    output:
        **tables("results/quality/texts/{text}", QUALITY_TEXT_TABLES),
    log:
        "results/logs/quality/{text}.log",
    benchmark:
        "results/logs/quality/{text}.tsv"
    wildcard_constraints:
        text=one_of(QUALITY_TEXTS),
    conda:
        "../../environment.yml"
    threads: CONFIG.quality.threads
    resources:
        # Weights, one cache of 4,096 tokens, logits of the continuation, nested records of all layers.
        mem_mb=5000,
    params:
        run=stage_params("quality", "quality.text"),
    script:
        "../scripts/quality_text.py"


rule quality_speed:
    input:
        **captures(),
        manifest=f"{MODEL_FOLDER}/manifest.json",
        texts="results/texts/texts.parquet",
        codecs=per_layer(sketch_files()["codecs"]),
        thetas="results/quality/thetas.parquet",
    output:
        table="results/quality/speed.parquet",
    log:
        "results/logs/quality/speed.log",
    benchmark:
        "results/logs/quality/speed.tsv"
    conda:
        "../../environment.yml"
    # A timing shares the machine with nothing.
    threads: workflow.cores
    resources:
        mem_mb=3000,
    params:
        run=stage_params("quality", "quality.speed"),
    script:
        "../scripts/quality_speed.py"


rule gather_quality:
    input:
        **{
            name: expand(path, text=QUALITY_TEXTS)
            for name, path in tables("results/quality/texts/{text}", QUALITY_TEXT_TABLES).items()
        },
    output:
        **tables("results/quality", QUALITY_TABLES),
    log:
        "results/logs/quality/gather.log",
    benchmark:
        "results/logs/quality/gather.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=2000,
    params:
        run=stage_params("quality_gather", "quality.gather"),
    script:
        "../scripts/gather_quality.py"
