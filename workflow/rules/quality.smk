# The model decodes held-out text under elimination: policies fitted once, a job a text, then intervals.
from ghostkv.stages.quality.jobs import FitPolicies, GatherQuality, QualityText


use rule gather_frontier as fit_quality with:
    input:
        **captures(),
        codecs=policy_codecs("quality"),
        points="results/frontier/points.parquet",
    output:
        **tables(FitPolicies, "results/quality"),
    log:
        "results/logs/quality/fit.log",
    resources:
        **needs("fit_quality"),
    params:
        run=job_params(FitPolicies),


use rule gather_frontier as quality_text with:
    input:
        **captures(),
        manifest=f"{RUN.model_folder}/manifest.json",
        texts="results/texts/texts.parquet",
        codecs=policy_codecs("quality"),
        points="results/frontier/points.parquet",
        thetas="results/quality/thetas.parquet",
        dense="results/quality/dense.parquet",
    output:
        **tables(QualityText, "results/quality/texts/{text}"),
    log:
        "results/logs/quality/{text}.log",
    wildcard_constraints:
        text=one_of(RUN.texts_of("held_out")),
    threads: RUN.config.quality.threads
    resources:
        **needs("quality_text"),
        gpu=RUN.gpus,
    params:
        run=job_params(QualityText),


use rule gather_frontier as gather_quality with:
    input:
        **{
            name: expand(path, text=RUN.texts_of("held_out"))
            for name, path in tables(QualityText, "results/quality/texts/{text}").items()
        },
    output:
        **tables(GatherQuality, "results/quality"),
    log:
        "results/logs/quality/gather.log",
    resources:
        **needs("gather_quality"),
    params:
        run=job_params(GatherQuality),
