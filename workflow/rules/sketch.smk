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
        **needs("sketch_layer"),
    params:
        run=job_params(SketchLayer),
    script:
        "../scripts/job.py"
