# A decode step of one layer, and of the whole model, dense and under elimination, timed side by side, alone on the machine.
from ghostkv.stages.speed.jobs import TimeLayers, TimeSteps


use rule gather_frontier as time_layers with:
    input:
        layers=captures()["layers"],
    output:
        **tables(TimeLayers, "results/speed"),
    log:
        "results/logs/speed/layers.log",
    threads: workflow.cores
    resources:
        **needs("time_layers"),
    params:
        run=job_params(TimeLayers),


use rule gather_frontier as time_steps with:
    input:
        **captures(),
        manifest=asked("speed", f"{RUN.model_folder}/manifest.json"),
        texts="results/texts/texts.parquet",
    output:
        **tables(TimeSteps, "results/speed"),
    log:
        "results/logs/speed/steps.log",
    threads: workflow.cores
    resources:
        **needs("time_steps"),
    params:
        run=job_params(TimeSteps),
