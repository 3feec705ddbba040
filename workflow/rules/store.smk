# A store of K and V on disk: killed at random points, damaged at random offsets; then timed, alone on the machine.


rule store_trials:
    output:
        **tables("results/store", STORE_TRIALS),
    log:
        "results/logs/store/trials.log",
    benchmark:
        "results/logs/store/trials.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        # Peak 0.3 GB.
        mem_mb=1000,
    params:
        run=stage_params("store", "store.trials"),
    script:
        "../scripts/store_trials.py"


rule store_speed:
    output:
        **tables("results/store", STORE_TIMES),
    log:
        "results/logs/store/speed.log",
    benchmark:
        "results/logs/store/speed.tsv"
    conda:
        "../../environment.yml"
    threads: workflow.cores
    resources:
        # Peak 0.5 GB.
        mem_mb=1500,
    params:
        run=stage_params("store", "store.timing"),
    script:
        "../scripts/store_speed.py"
