# What capture and sweep cost. A timing shares the machine with nothing, so each job takes every core.


rule capture_overhead:
    input:
        manifest=f"{MODEL_FOLDER}/manifest.json",
        texts="results/texts/texts.parquet",
    output:
        table="results/benchmark/capture_overhead.parquet",
    log:
        "results/logs/benchmark/capture_overhead.log",
    benchmark:
        "results/logs/benchmark/capture_overhead.tsv"
    # Before the captures: then nothing waits for the cores to drain.
    priority: 20
    conda:
        "../../environment.yml"
    threads: workflow.cores
    resources:
        # Peak 1.2 GB at 4,096 tokens, as for a capture.
        mem_mb=2500,
    params:
        run=stage_params("benchmark", "benchmark.capture_overhead"),
    script:
        "../scripts/capture_overhead.py"


rule sweep_speed:
    output:
        table="results/benchmark/sweep_speed.parquet",
    log:
        "results/logs/benchmark/sweep_speed.log",
    benchmark:
        "results/logs/benchmark/sweep_speed.tsv"
    priority: 20
    conda:
        "../../environment.yml"
    threads: workflow.cores
    resources:
        # Peak 0.3 GB.
        mem_mb=1500,
    params:
        run=stage_params("benchmark", "benchmark.sweep_speed"),
    script:
        "../scripts/sweep_speed.py"
