# The model: fetched once, checked, stored as safetensors.
from ghostkv.stages.model.jobs import FetchModel


rule fetch_model:
    input:
        files=RUN.model.local_files(),
    output:
        manifest=f"{RUN.model_folder}/manifest.json",
    log:
        f"results/logs/model/{RUN.config.model.name}.log",
    # Computing nodes of a cluster may have no network.
    localrule: True
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        **needs("fetch_model"),
    params:
        run=job_params(FetchModel),
    script:
        "../scripts/job.py"
