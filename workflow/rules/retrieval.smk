# Questions on long contexts: all prompts at once, then a job a task and length, which a killed run resumes from.
from ghostkv.files.jobs import together
from ghostkv.stages.retrieval.jobs import GatherRetrieval, RetrievalPlan, RetrievalTask, question_files

SHORT = RUN.config.retrieval.short_jobs()


use rule gather_frontier as retrieval_plan with:
    input:
        **captures(),
        manifest=f"{RUN.model_folder}/manifest.json",
        texts="results/texts/texts.parquet",
        tasks=os.path.relpath(f"{ROOT}/ghostkv/stages/retrieval/tasks/ruler.yaml"),
        data=question_files(RUN),
        codecs=policy_codecs("retrieval"),
    output:
        **tables(RetrievalPlan, "results/retrieval"),
    log:
        "results/logs/retrieval/plan.log",
    # Fetches the questions, and computing nodes of a cluster may have no network.
    localrule: True
    resources:
        **needs("retrieval_plan"),
    params:
        run=job_params(RetrievalPlan),


use rule gather_frontier as retrieval_task with:
    input:
        **captures(),
        manifest=f"{RUN.model_folder}/manifest.json",
        samples="results/retrieval/samples.parquet",
        thetas="results/retrieval/thetas.parquet",
        codecs=policy_codecs("retrieval"),
        points="results/frontier/points.parquet",
    output:
        **tables(RetrievalTask, "results/retrieval/tasks/{job}"),
    log:
        "results/logs/retrieval/{job}.log",
    wildcard_constraints:
        job=one_of(job for job in RUN.config.retrieval.jobs() if job not in SHORT),
    threads: RUN.config.retrieval.threads
    resources:
        **needs("retrieval_task"),
        gpu=RUN.gpus,
    params:
        run=job_params(RetrievalTask),


use rule retrieval_task as retrieval_short with:
    output:
        answers=expand("results/retrieval/tasks/{job}/answers.parquet", job=SHORT),
    log:
        "results/logs/retrieval/short.log",
    resources:
        **needs("retrieval_short", [{"job": job} for job in SHORT]),
    params:
        run=together(RetrievalTask.of(RUN, job) for job in SHORT),


use rule gather_frontier as gather_retrieval with:
    input:
        answers=expand("results/retrieval/tasks/{job}/answers.parquet", job=RUN.config.retrieval.jobs()),
    output:
        **tables(GatherRetrieval, "results/retrieval"),
    log:
        "results/logs/retrieval/gather.log",
    resources:
        **needs("gather_retrieval"),
    params:
        run=job_params(GatherRetrieval),
