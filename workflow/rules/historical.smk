# The predecessor's protocol as it was, then with one knob put right at a time.
from ghostkv.stages.historical.jobs import HistoricalRun


rule run_historical:
    input:
        **captures(),
        manifest=asked("historical", f"{RUN.model_folder}/manifest.json"),
        texts="results/texts/texts.parquet",
    output:
        **tables(HistoricalRun, "results/historical"),
    log:
        "results/logs/historical/historical.log",
    # One long job: started last, it would keep the other cores waiting.
    priority: 5
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        **needs("run_historical"),
        gpu=RUN.gpus,
    params:
        run=job_params(HistoricalRun),
    script:
        "../scripts/job.py"
