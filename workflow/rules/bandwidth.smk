# Memory: real survivors' index patterns, this machine measured, and a model of step time fitted, checked and asked.


rule survivor_patterns:
    input:
        **captures(),
        codecs=expand(sketch_files()["codecs"], layer=[f"{layer:02d}" for layer in bandwidth_layers()]),
        records=expand(sketch_files()["records"], layer=[f"{layer:02d}" for layer in bandwidth_layers()]),
        points="results/frontier/points.parquet",
    output:
        table="results/bandwidth/patterns.parquet",
    log:
        "results/logs/bandwidth/patterns.log",
    benchmark:
        "results/logs/bandwidth/patterns.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=1500,
    params:
        run=stage_params("bandwidth_measure", "bandwidth.patterns"),
    script:
        "../scripts/survivor_patterns.py"


# A timing shares the machine with nothing, so the job takes every core.
rule measure_memory:
    input:
        patterns="results/bandwidth/patterns.parquet",
    output:
        **tables("results/bandwidth", BANDWIDTH_MEASURED),
    log:
        "results/logs/bandwidth/measure.log",
    benchmark:
        "results/logs/bandwidth/measure.tsv"
    conda:
        "../../environment.yml"
    threads: workflow.cores
    resources:
        # The working set and a tenth as much beside it.
        mem_mb=500 + 2 * CONFIG.bandwidth.measure.memory_mb,
    params:
        run=stage_params("bandwidth_measure", "bandwidth.measure"),
    script:
        "../scripts/measure_memory.py"


rule model_bandwidth:
    input:
        **tables("results/bandwidth", BANDWIDTH_MEASURED),
        patterns="results/bandwidth/patterns.parquet",
        context="results/frontier/context.parquet",
        layers=captures()["layers"][0],
    output:
        **tables("results/bandwidth", BANDWIDTH_TABLES),
    log:
        "results/logs/bandwidth/model.log",
    benchmark:
        "results/logs/bandwidth/model.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=1000,
    params:
        run=stage_params("bandwidth", "bandwidth.model"),
    script:
        "../scripts/model_bandwidth.py"
