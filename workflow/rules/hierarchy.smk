# Per layer: an index over ghost records against the flat scan, on held-out texts and the trace. Then fits by context.


rule hierarchy_layer:
    input:
        **captures(),
        **{f"trace_{kind}": path for kind, path in trace_files().items()},
    output:
        **tables("results/hierarchy/layers/layer_{layer}", HIERARCHY_LAYER_TABLES),
    log:
        "results/logs/hierarchy/layer_{layer}.log",
    benchmark:
        "results/logs/hierarchy/layer_{layer}.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=2000,
    params:
        run=stage_params("hierarchy", "hierarchy.layer"),
    script:
        "../scripts/hierarchy_layer.py"


rule gather_hierarchy:
    input:
        **{
            name: per_layer(path)
            for name, path in tables(
                "results/hierarchy/layers/layer_{layer}", HIERARCHY_LAYER_TABLES
            ).items()
        },
    output:
        **tables("results/hierarchy", STAGE_TABLES["hierarchy"]),
    log:
        "results/logs/hierarchy/gather.log",
    benchmark:
        "results/logs/hierarchy/gather.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=1000,
    params:
        run=stage_params("hierarchy", "hierarchy.gather"),
    script:
        "../scripts/gather_hierarchy.py"
