# Per layer: an index over ghost records against the flat scan, on held-out texts and the trace. Then fits by context.
from ghostkv.stages.hierarchy.jobs import GatherHierarchy, HierarchyLayer


use rule sweep_layer as hierarchy_layer with:
    input:
        **captures(),
        **{f"trace_{kind}": path for kind, path in trace_files().items()},
    output:
        **tables(HierarchyLayer, "results/hierarchy/layers/layer_{layer}"),
    log:
        "results/logs/hierarchy/layer_{layer}.log",
    priority: -1
    resources:
        **needs("hierarchy_layer"),
    params:
        run=job_params(HierarchyLayer),


use rule gather_frontier as gather_hierarchy with:
    input:
        **layer_tables(HierarchyLayer, "hierarchy"),
    output:
        **tables(GatherHierarchy, "results/hierarchy"),
    log:
        "results/logs/hierarchy/gather.log",
    resources:
        **needs("gather_hierarchy"),
    params:
        run=job_params(GatherHierarchy),
