# What capture and sweep cost.
from ghostkv.stages.benchmark.jobs import CaptureOverhead, SweepSpeed


rule capture_overhead:
    input:
        manifest=asked("benchmark", f"{RUN.model_folder}/manifest.json"),
        texts="results/texts/texts.parquet",
    output:
        **tables(CaptureOverhead, "results/benchmark"),
    log:
        "results/logs/benchmark/capture_overhead.log",
    priority: 20
    conda:
        "../../environment.yml"
    # As captures have, and as they beside others: both sides of the ratio take turns, so both meet the same machine.
    threads: RUN.config.capture.threads
    resources:
        **needs("capture_overhead"),
        gpu=RUN.gpus,
    params:
        run=job_params(CaptureOverhead),
    script:
        "../scripts/job.py"


use rule capture_overhead as sweep_speed with:
    input:
        [],
    output:
        **tables(SweepSpeed, "results/benchmark"),
    log:
        "results/logs/benchmark/sweep_speed.log",
    # Milliseconds are timed: alone on the machine.
    threads: workflow.cores
    resources:
        **needs("sweep_speed"),
    params:
        run=job_params(SweepSpeed),
