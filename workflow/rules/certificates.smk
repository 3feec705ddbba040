# Per layer: what the records of held-out texts prove of every query, verified against exact scores.


rule certify_layer:
    input:
        **captures(),
        codecs=sketch_files()["codecs"],
    output:
        **tables("results/certificates/layers/layer_{layer}", CERTIFICATE_TABLES),
    log:
        "results/logs/certificates/layer_{layer}.log",
    benchmark:
        "results/logs/certificates/layer_{layer}.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=2000,
    params:
        run=stage_params("certificates", "certificates.layer"),
    script:
        "../scripts/certify_layer.py"


rule gather_certificates:
    input:
        **{
            name: per_layer(path)
            for name, path in tables("results/certificates/layers/layer_{layer}", CERTIFICATE_TABLES).items()
        },
    output:
        **tables("results/certificates", CERTIFICATE_TABLES),
    log:
        "results/logs/certificates/gather.log",
    benchmark:
        "results/logs/certificates/gather.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=1000,
    params:
        run=stage_params("certificates", "certificates.gather"),
    script:
        "../scripts/gather_certificates.py"
