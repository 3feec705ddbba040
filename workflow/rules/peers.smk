# Per layer: every selector at the same bytes on held-out text. Then intervals over documents and verdicts.


rule peers_layer:
    input:
        **captures(),
        **sketch_files(),
    output:
        **tables("results/peers/layers/layer_{layer}", PEER_LAYER_TABLES),
    log:
        "results/logs/peers/layer_{layer}.log",
    benchmark:
        "results/logs/peers/layer_{layer}.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=2000,
    params:
        run=stage_params("peers", "peers.layer"),
    script:
        "../scripts/peers_layer.py"


rule gather_peers:
    input:
        **{
            name: per_layer(path)
            for name, path in tables("results/peers/layers/layer_{layer}", PEER_LAYER_TABLES).items()
        },
    output:
        **tables("results/peers", PEER_TABLES),
    log:
        "results/logs/peers/gather.log",
    benchmark:
        "results/logs/peers/gather.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=2000,
    params:
        run=stage_params("peers", "peers.gather"),
    script:
        "../scripts/gather_peers.py"
