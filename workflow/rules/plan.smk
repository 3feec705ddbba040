# What a run will take, before anything is fetched; and what it took, beside that.
from ghostkv.stages.plan.jobs import ComparePlan, PlanRun


# Params change from one time to the next: it runs whenever it is asked for.
rule plan:
    output:
        **tables(PlanRun, "results/plan"),
        text="results/plan/plan.txt",
    log:
        "results/logs/plan/plan.log",
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        **needs("plan"),
    params:
        run=job_params(PlanRun),
    script:
        "../scripts/job.py"


# After all that the report shows, as it reads their logs and files.
use rule plan as compare_plan with:
    input:
        unpack(shown),
    output:
        **tables(ComparePlan, "results/plan"),
    log:
        "results/logs/plan/compare.log",
    resources:
        **needs("compare_plan"),
    params:
        run=job_params(ComparePlan),
