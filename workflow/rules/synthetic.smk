# Generated tensors of known law through the lab's codecs and rules, a job each generator. Needs no model.
from ghostkv.stages.synthetic.jobs import GatherSynthetic, MeasureGenerator

GENERATORS = RUN.config.synthetic.labels()


rule synthetic_generator:
    input:
        asked("synthetic"),
    output:
        **tables(MeasureGenerator, "results/synthetic/generators/{generator}"),
    log:
        "results/logs/synthetic/{generator}.log",
    wildcard_constraints:
        generator=one_of(GENERATORS),
    priority: -1
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        **needs("synthetic_generator"),
    params:
        run=job_params(MeasureGenerator),
    script:
        "../scripts/job.py"


use rule gather_frontier as gather_synthetic with:
    input:
        **{
            name: expand(path, generator=GENERATORS)
            for name, path in tables(MeasureGenerator, "results/synthetic/generators/{generator}").items()
        },
    output:
        **tables(GatherSynthetic, "results/synthetic"),
    log:
        "results/logs/synthetic/gather.log",
    resources:
        **needs("gather_synthetic"),
    params:
        run=job_params(GatherSynthetic),
