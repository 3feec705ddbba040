# Memory: real survivors' index patterns, this machine measured, and a model of step time fitted, checked and asked.
from ghostkv.stages.bandwidth.jobs import CacheLosses, MeasureMemory, ModelBandwidth, SurvivorPatterns

PATTERN_LAYERS = RUN.spread_layers(RUN.config.bandwidth.measure.layers)
LOSS_LAYERS = RUN.spread_layers(RUN.config.bandwidth.caches.layers)


use rule gather_frontier as survivor_patterns with:
    input:
        **captures(),
        codecs=per_layer(sketch_files()["codecs"], PATTERN_LAYERS),
        records=per_layer(sketch_files()["records"], PATTERN_LAYERS),
        points="results/frontier/points.parquet",
    output:
        **tables(SurvivorPatterns, "results/bandwidth"),
    log:
        "results/logs/bandwidth/patterns.log",
    resources:
        **needs("survivor_patterns"),
    params:
        run=job_params(SurvivorPatterns),


use rule gather_frontier as cache_losses with:
    input:
        **captures(),
        codecs=per_layer(sketch_files()["codecs"], LOSS_LAYERS),
    output:
        **tables(CacheLosses, "results/bandwidth"),
    log:
        "results/logs/bandwidth/losses.log",
    resources:
        **needs("cache_losses"),
    params:
        run=job_params(CacheLosses),


# A timing shares the machine with nothing, so the job takes every core.
use rule gather_frontier as measure_memory with:
    input:
        patterns="results/bandwidth/patterns.parquet",
    output:
        **tables(MeasureMemory, "results/bandwidth"),
    log:
        "results/logs/bandwidth/measure.log",
    threads: workflow.cores
    resources:
        **needs("measure_memory"),
    params:
        run=job_params(MeasureMemory),


use rule gather_frontier as model_bandwidth with:
    input:
        **tables(MeasureMemory, "results/bandwidth"),
        patterns="results/bandwidth/patterns.parquet",
        losses="results/bandwidth/losses.parquet",
        context="results/frontier/context.parquet",
        layers=captures()["layers"][0],
    output:
        **tables(ModelBandwidth, "results/bandwidth"),
    log:
        "results/logs/bandwidth/model.log",
    resources:
        **needs("model_bandwidth"),
    params:
        run=job_params(ModelBandwidth),
