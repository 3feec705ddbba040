# The model decodes held-out text under elimination: policies fitted once, some texts a job, then intervals.
from ghostkv.config.quality import text_parts
from ghostkv.stages.quality.jobs import FitPolicies, GatherQuality, QualityTexts

PARTS = text_parts(RUN.texts_of("held_out"))


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


use rule gather_frontier as quality_texts with:
    input:
        **captures(),
        manifest=f"{RUN.model_folder}/manifest.json",
        texts="results/texts/texts.parquet",
        codecs=policy_codecs("quality"),
        points="results/frontier/points.parquet",
        thetas="results/quality/thetas.parquet",
        dense="results/quality/dense.parquet",
    output:
        **tables(QualityTexts, "results/quality/parts/{part}"),
    log:
        "results/logs/quality/{part}.log",
    wildcard_constraints:
        part=one_of(PARTS),
    threads: RUN.config.quality.threads
    resources:
        **needs("quality_texts"),
        gpu=RUN.gpus,
    params:
        run=job_params(QualityTexts),


use rule gather_frontier as gather_quality with:
    input:
        **{
            name: expand(path, part=PARTS)
            for name, path in tables(QualityTexts, "results/quality/parts/{part}").items()
        },
    output:
        **tables(GatherQuality, "results/quality"),
    log:
        "results/logs/quality/gather.log",
    resources:
        **needs("gather_quality"),
    params:
        run=job_params(GatherQuality),
