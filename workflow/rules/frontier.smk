# Per layer: every codec and threshold rule on threshold and held-out texts. Then all layers as tables.
from ghostkv.stages.frontier.jobs import GatherFrontier, SummariseHeads, SweepLayer


# The body of every rule that works layer by layer; the stages after this one state what differs.
rule sweep_layer:
    input:
        **captures(),
        **sketch_files(),
    output:
        **tables(SweepLayer, "results/frontier/layers/layer_{layer}"),
    log:
        "results/logs/frontier/layer_{layer}.log",
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        # Peak 0.9 GB at 4,096 tokens; see docs/performance.md, Long contexts.
        mem_mb=2000,
    params:
        run=job_params(SweepLayer),
    script:
        "../scripts/job.py"


# The body of every rule that joins the layers of a stage.
rule gather_frontier:
    input:
        **layer_tables(SweepLayer, "frontier"),
    output:
        **tables(GatherFrontier, "results/frontier"),
    log:
        "results/logs/frontier/gather.log",
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=3000,
    params:
        run=job_params(GatherFrontier),
    script:
        "../scripts/job.py"


# Apart from the tables that other stages read, so that another summary reruns none of them.
use rule gather_frontier as summarise_heads with:
    input:
        points="results/frontier/points.parquet",
    output:
        **tables(SummariseHeads, "results/frontier"),
    log:
        "results/logs/frontier/heads.log",
    resources:
        mem_mb=1000,
    params:
        run=job_params(SummariseHeads),
