# One long text, of which every query of the last part is recorded: what a decode would ask, step by step.
from ghostkv.stages.trace.jobs import TraceText


rule trace_text:
    input:
        manifest=asked("trace", f"{RUN.model_folder}/manifest.json"),
        texts="results/texts/texts.parquet",
    output:
        **trace_files(),
    log:
        "results/logs/trace/trace.log",
    # A forward pass like those of the captures, and longer.
    priority: 11
    conda:
        "../../environment.yml"
    threads: RUN.config.trace.threads
    resources:
        **needs("trace_text"),
        gpu=RUN.gpus,
    params:
        run=job_params(TraceText),
    script:
        "../scripts/job.py"
