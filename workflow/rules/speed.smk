# A decode step of one layer, dense and under elimination, timed side by side, alone on the machine.
from ghostkv.stages.speed.jobs import TimeLayers


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
