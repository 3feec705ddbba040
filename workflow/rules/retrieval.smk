# Questions on long contexts: all prompts at once, then a job a task and length, which a killed run resumes from.


rule retrieval_plan:
    input:
        manifest=f"{MODEL_FOLDER}/manifest.json",
        texts="results/texts/texts.parquet",
        tasks=os.path.relpath(f"{ROOT}/ghostkv/stages/retrieval/tasks/ruler.yaml"),
        data=retrieval_files,
        captures=captures().values(),
        codecs=per_layer(sketch_files()["codecs"]),
    output:
        samples="results/retrieval/samples.parquet",
        thetas="results/retrieval/thetas.parquet",
    log:
        "results/logs/retrieval/plan.log",
    benchmark:
        "results/logs/retrieval/plan.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=2000,
    params:
        run=stage_params("retrieval", "retrieval.plan"),
    script:
        "../scripts/retrieval_plan.py"


rule retrieval_task:
    input:
        manifest=f"{MODEL_FOLDER}/manifest.json",
        samples="results/retrieval/samples.parquet",
        thetas="results/retrieval/thetas.parquet",
        captures=captures().values(),
        codecs=per_layer(sketch_files()["codecs"]),
        points="results/frontier/points.parquet",
    output:
        answers="results/retrieval/tasks/{job}.parquet",
    log:
        "results/logs/retrieval/{job}.log",
    benchmark:
        "results/logs/retrieval/{job}.tsv"
    wildcard_constraints:
        job=one_of(CONFIG.retrieval.jobs()),
    conda:
        "../../environment.yml"
    threads: CONFIG.retrieval.threads
    resources:
        # Weights, and the cache of a context in float32: 46 MB for 1,024 tokens of the default model.
        mem_mb=3000,
    params:
        run=stage_params("retrieval", "retrieval.task"),
    script:
        "../scripts/retrieval_task.py"


rule gather_retrieval:
    input:
        expand("results/retrieval/tasks/{job}.parquet", job=CONFIG.retrieval.jobs()),
    output:
        **stage_tables("retrieval"),
    log:
        "results/logs/retrieval/gather.log",
    benchmark:
        "results/logs/retrieval/gather.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=1000,
    params:
        run=stage_params("retrieval", "retrieval.gather"),
    script:
        "../scripts/gather_retrieval.py"
