# Per layer: thresholds calibrated for a stated risk on threshold texts, measured on held-out texts. Then all layers.
from ghostkv.stages.calibrated.jobs import GatherCalibrated, CalibrateLayer


use rule sweep_layer as calibrate_layer with:
    input:
        **captures(),
        **sketch_files(),
    output:
        **tables(CalibrateLayer, "results/calibrated/layers/layer_{layer}"),
    log:
        "results/logs/calibrated/layer_{layer}.log",
    priority: -1
    resources:
        **needs("calibrate_layer"),
    params:
        run=job_params(CalibrateLayer),


use rule gather_frontier as gather_calibrated with:
    input:
        **layer_tables(CalibrateLayer, "calibrated"),
    output:
        **tables(GatherCalibrated, "results/calibrated"),
    log:
        "results/logs/calibrated/gather.log",
    resources:
        **needs("gather_calibrated"),
    params:
        run=job_params(GatherCalibrated),
