# Per layer: codecs fitted on the texts of role codec, ghost records of the keys of all others.
from ghostkv.stages.sketch.jobs import SketchLayer


rule sketch_layer:
    input:
        **captures(),
    output:
        **sketch_files(),
    log:
        "results/logs/sketch/layer_{layer}.log",
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        # Peak 0.25 GB at 4,096 tokens.
        mem_mb=2000,
    params:
        run=job_params(SketchLayer),
    script:
        "../scripts/job.py"
