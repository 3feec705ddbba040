# A store of K and V on disk: killed at random points, damaged at random offsets; then timed, alone on the machine.
from ghostkv.stages.store.jobs import TimeStore, TryStore


rule store_trials:
    output:
        **tables(TryStore, "results/store"),
    log:
        "results/logs/store/trials.log",
    priority: -1
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        **needs("store_trials"),
    params:
        run=job_params(TryStore),
    script:
        "../scripts/job.py"


use rule store_trials as store_speed with:
    output:
        **tables(TimeStore, "results/store"),
    log:
        "results/logs/store/speed.log",
    threads: workflow.cores
    resources:
        **needs("store_speed"),
    params:
        run=job_params(TimeStore),
