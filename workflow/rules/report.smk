# Everything above as a page to read, from Parquet alone.


rule report:
    input:
        unpack(report_tables),
    output:
        markdown=report(
            "results/report/RESULTS.md",
            category="Results",
            labels={"what": "the answer, as text"},
            caption="../report/results.rst",
        ),
        html=report(
            "results/report/report.html",
            category="Results",
            labels={"what": "the answer, with figures"},
            caption="../report/results.rst",
        ),
        headline=report(
            "results/report/headline.json",
            category="Results",
            labels={"what": "the headline figures"},
            caption="../report/headline.rst",
        ),
        figures=report(
            directory("results/report/figures"),
            patterns=["{figure}.svg"],
            category="Figures",
            labels={"what": "{figure}"},
            caption="../report/figures.rst",
        ),
    log:
        "results/logs/report/report.log",
    benchmark:
        "results/logs/report/report.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=2000,
    params:
        run={"code": fingerprint("ghostkv.report.stage")} | BRANCHES["report"],
    script:
        "../scripts/report.py"
