# A capture per text: from a forward pass of the model, or from tensors that a lab already has.
from ghostkv.stages.capture.jobs import CaptureText, ImportTensors


rule capture_text:
    input:
        manifest=f"{RUN.model_folder}/manifest.json",
        texts="results/texts/texts.parquet",
    output:
        **capture_files(),
    log:
        "results/logs/capture/{text}.log",
    wildcard_constraints:
        text=one_of(name for name in RUN.texts if name not in RUN.imports),
    # The forward passes are the longest path: start them before anything else.
    priority: 10
    conda:
        "../../environment.yml"
    threads: RUN.config.capture.threads
    resources:
        **needs("capture_text"),
        gpu=RUN.gpus,
    params:
        run=job_params(CaptureText),
    script:
        "../scripts/job.py"


use rule capture_text as import_tensors with:
    input:
        tensors=lambda wildcards: RUN.imported_files(wildcards.text),
    wildcard_constraints:
        text=one_of(RUN.imports),
    priority: 0
    threads: 1
    resources:
        **needs("import_tensors"),
    params:
        run=job_params(ImportTensors),
