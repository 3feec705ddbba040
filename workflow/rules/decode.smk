# Per layer: the trace decoded step by step, and one layer through a real store; the same over generated tensors.


rule decode_layer:
    input:
        **trace_files(),
        codecs=sketch_files()["codecs"],
        points="results/frontier/points.parquet",
    output:
        **tables("results/decode/layers/layer_{layer}", DECODE_TABLES),
    log:
        "results/logs/decode/layer_{layer}.log",
    benchmark:
        "results/logs/decode/layer_{layer}.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=1500,
    params:
        run=stage_params("decode", "decode.layer"),
    script:
        "../scripts/decode_layer.py"


rule decode_synthetic:
    output:
        **tables("results/decode/synthetic", DECODE_TABLES[:-1]),
    log:
        "results/logs/decode/synthetic.log",
    benchmark:
        "results/logs/decode/synthetic.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=1000,
    params:
        run=stage_params("decode", "decode.generated"),
    script:
        "../scripts/decode_synthetic.py"


rule gather_decode:
    input:
        **{
            name: [f"results/decode/layers/layer_{layer:02d}/{name}.parquet" for layer in decode_layers()]
            + [f"results/decode/synthetic/{name}.parquet"] * (name != "store")
            for name in DECODE_TABLES
        },
    output:
        **tables("results/decode", DECODE_TABLES),
    log:
        "results/logs/decode/gather.log",
    benchmark:
        "results/logs/decode/gather.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=1000,
    params:
        run=stage_params("decode", "decode.gather"),
    script:
        "../scripts/gather_decode.py"
