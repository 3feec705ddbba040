# Everything above as a page to read, from Parquet alone.
from ghostkv.report.jobs import WriteReport


rule report:
    input:
        unpack(shown),
        **{f"plan_{name}": file for name, file in tables(ComparePlan, "results/plan").items()},
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
        power="results/report/power.parquet",
        run="results/report/run.json",
        figures=report(
            directory("results/report/figures"),
            patterns=["{figure}.svg"],
            category="Figures",
            labels={"what": "{figure}"},
            caption="../report/figures.rst",
        ),
    log:
        "results/logs/report/report.log",
    # A job on a cluster does not know the targets.
    localrule: True
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        **needs("report"),
    params:
        run=job_params(WriteReport),
    script:
        "../scripts/job.py"
