# Generated tensors of known law through the lab's codecs and rules, a job each generator. Needs no model.


rule synthetic_generator:
    output:
        **tables("results/synthetic/generators/{generator}", SYNTHETIC_GENERATOR_TABLES),
    log:
        "results/logs/synthetic/{generator}.log",
    benchmark:
        "results/logs/synthetic/{generator}.tsv"
    wildcard_constraints:
        generator=one_of(SYNTHETIC_GENERATORS),
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=1000,
    params:
        run=synthetic_params,
    script:
        "../scripts/synthetic_generator.py"


rule gather_synthetic:
    input:
        **{
            name: expand(path, generator=SYNTHETIC_GENERATORS)
            for name, path in tables(
                "results/synthetic/generators/{generator}", SYNTHETIC_GENERATOR_TABLES
            ).items()
        },
    output:
        **stage_tables("synthetic"),
    log:
        "results/logs/synthetic/gather.log",
    benchmark:
        "results/logs/synthetic/gather.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=1000,
    params:
        run=stage_params("synthetic", "synthetic.gather"),
    script:
        "../scripts/gather_synthetic.py"
