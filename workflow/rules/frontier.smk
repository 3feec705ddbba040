# Per layer: every codec, rule and theta at once. Then one table of each kind for the whole model.


rule sweep_layer:
    input:
        **captures(),
        **sketch_files(),
    output:
        **tables("results/frontier/layers/layer_{layer}", LAYER_TABLES),
    log:
        "results/logs/frontier/layer_{layer}.log",
    benchmark:
        "results/logs/frontier/layer_{layer}.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        # Peak 0.8 GB at 4,096 tokens, and grows with them.
        mem_mb=2000,
    params:
        run=stage_params("frontier", "frontier.layer"),
    script:
        "../scripts/sweep_layer.py"


rule gather_frontier:
    input:
        **{
            name: per_layer(path)
            for name, path in tables("results/frontier/layers/layer_{layer}", LAYER_TABLES).items()
        },
    output:
        **tables("results/frontier", FRONTIER_TABLES),
    log:
        "results/logs/frontier/gather.log",
    benchmark:
        "results/logs/frontier/gather.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=3000,
    params:
        run=stage_params("frontier", "frontier.gather"),
    script:
        "../scripts/gather_frontier.py"
