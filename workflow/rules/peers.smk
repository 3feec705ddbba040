# In some layers: every selector at the same bytes on held-out text. Then intervals over documents and verdicts.
from ghostkv.stages.peers.jobs import GatherPeers, PeersLayer


use rule sweep_layer as peers_layer with:
    input:
        **captures(),
        **sketch_files(),
    output:
        **tables(PeersLayer, "results/peers/layers/layer_{layer}"),
    log:
        "results/logs/peers/layer_{layer}.log",
    priority: -1
    resources:
        **needs("peers_layer"),
    params:
        run=job_params(PeersLayer),


use rule gather_frontier as gather_peers with:
    input:
        **layer_tables(PeersLayer, "peers", RUN.spread_layers(RUN.config.peers.layers)),
    output:
        **tables(GatherPeers, "results/peers"),
    log:
        "results/logs/peers/gather.log",
    resources:
        **needs("gather_peers"),
    params:
        run=job_params(GatherPeers),
