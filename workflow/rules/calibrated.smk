# Per layer: thresholds calibrated for a stated risk on threshold texts, measured on held-out texts. Then all layers.


rule calibrate_layer:
    input:
        **captures(),
        **sketch_files(),
    output:
        **tables("results/calibrated/layers/layer_{layer}", CALIBRATED_LAYER_TABLES),
    log:
        "results/logs/calibrated/layer_{layer}.log",
    benchmark:
        "results/logs/calibrated/layer_{layer}.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=2500,
    params:
        run=stage_params("calibrated", "calibrated.layer"),
    script:
        "../scripts/calibrate_layer.py"


rule gather_calibrated:
    input:
        **{
            name: per_layer(path)
            for name, path in tables(
                "results/calibrated/layers/layer_{layer}", CALIBRATED_LAYER_TABLES
            ).items()
        },
    output:
        **tables("results/calibrated", CALIBRATED_TABLES),
    log:
        "results/logs/calibrated/gather.log",
    benchmark:
        "results/logs/calibrated/gather.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=1500,
    params:
        run=stage_params("calibrated", "calibrated.gather"),
    script:
        "../scripts/gather_calibrated.py"
