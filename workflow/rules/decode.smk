# Per layer: the trace decoded step by step, and one layer through a real store; the same over generated tensors.
from ghostkv.stages.decode.jobs import DecodeGenerated, DecodeLayer, GatherDecode, TimeOverlap, stored_layer

DECODED = layer_tables(DecodeLayer, "decode", RUN.spread_layers(RUN.config.decode.layers))
GENERATED = tables(DecodeGenerated, "results/decode/synthetic")


use rule sweep_layer as decode_layer with:
    input:
        **trace_files(),
        codecs=sketch_files()["codecs"],
        points="results/frontier/points.parquet",
    output:
        **tables(DecodeLayer, "results/decode/layers/layer_{layer}"),
    log:
        "results/logs/decode/layer_{layer}.log",
    priority: -1
    resources:
        **needs("decode_layer"),
    params:
        run=job_params(DecodeLayer),


use rule gather_frontier as decode_synthetic with:
    input:
        asked("decode"),
    output:
        **GENERATED,
    log:
        "results/logs/decode/synthetic.log",
    resources:
        **needs("decode_synthetic"),
    params:
        run=job_params(DecodeGenerated),


use rule gather_frontier as time_overlap with:
    input:
        **trace_files(),
        codecs=f"results/sketch/layer_{stored_layer(RUN):02d}/codecs.safetensors",
        points="results/frontier/points.parquet",
    output:
        **tables(TimeOverlap, "results/decode"),
    log:
        "results/logs/decode/overlap.log",
    # A timing shares the machine with nothing.
    threads: workflow.cores
    resources:
        **needs("time_overlap"),
    params:
        run=job_params(TimeOverlap),


use rule gather_frontier as gather_decode with:
    input:
        **{name: [*files, *filter(None, [GENERATED.get(name)])] for name, files in DECODED.items()},
    output:
        **tables(GatherDecode, "results/decode"),
    log:
        "results/logs/decode/gather.log",
    resources:
        **needs("gather_decode"),
    params:
        run=job_params(GatherDecode),
