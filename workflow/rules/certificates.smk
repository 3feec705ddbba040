# Per layer: what the records of held-out texts prove of every query, verified against exact scores.
from ghostkv.stages.certificates.jobs import GatherCertificates, CertifyLayer


use rule sweep_layer as certify_layer with:
    input:
        **captures(),
        codecs=sketch_files()["codecs"],
    output:
        **tables(CertifyLayer, "results/certificates/layers/layer_{layer}"),
    log:
        "results/logs/certificates/layer_{layer}.log",
    priority: -1
    resources:
        **needs("certify_layer"),
    params:
        run=job_params(CertifyLayer),


use rule gather_frontier as gather_certificates with:
    input:
        **layer_tables(CertifyLayer, "certificates"),
    output:
        **tables(GatherCertificates, "results/certificates"),
    log:
        "results/logs/certificates/gather.log",
    resources:
        **needs("gather_certificates"),
    params:
        run=job_params(GatherCertificates),
