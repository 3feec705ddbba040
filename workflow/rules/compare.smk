# Finished runs side by side: snakemake compare --config runs='[results, ../other/results]'
from ghostkv.report.jobs import CompareRuns


rule compare:
    input:
        reports=compared,
    output:
        markdown="results/compare/COMPARE.md",
        html="results/compare/compare.html",
        figures=directory("results/compare/figures"),
    log:
        "results/logs/compare/compare.log",
    localrule: True
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        **needs("compare"),
    params:
        run=lambda wildcards: CompareRuns.of(RUN, runs=COMPARED).params(),
    script:
        "../scripts/job.py"
