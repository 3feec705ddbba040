# GhostKV Lab: how much of a model's KV cache can be eliminated before any memory moves, and what it costs.
# A contents page: one rule file per stage, in pipeline order. `make frontier` or `snakemake --cores 2 frontier`.
from snakemake.utils import min_version

min_version("9.27")


configfile: f"{workflow.basedir}/config.yaml"


include: "workflow/rules/common.smk"
include: "workflow/rules/model.smk"
include: "workflow/rules/texts.smk"
include: "workflow/rules/capture.smk"
include: "workflow/rules/trace.smk"
include: "workflow/rules/sketch.smk"
include: "workflow/rules/frontier.smk"
include: "workflow/rules/certificates.smk"
include: "workflow/rules/calibrated.smk"
include: "workflow/rules/peers.smk"
include: "workflow/rules/hierarchy.smk"
include: "workflow/rules/decode.smk"
include: "workflow/rules/historical.smk"
include: "workflow/rules/synthetic.smk"
include: "workflow/rules/bandwidth.smk"
include: "workflow/rules/quality.smk"
include: "workflow/rules/retrieval.smk"
include: "workflow/rules/benchmark.smk"
include: "workflow/rules/store.smk"
include: "workflow/rules/report.smk"


report: "workflow/report/workflow.rst"


rule all:
    default_target: True
    input:
        rules.report.output,


rule results:
    input:
        rules.report.output,


rule frontier:
    input:
        rules.gather_frontier.output,
        rules.summarise_heads.output,
        rules.report.output,


rule capture:
    input:
        captures()["layers"],


rule trace:
    input:
        trace_files().values(),


rule sketch:
    input:
        per_layer(sketch_files()["records"]),


# A stage beyond the frontier comes with its chapter of the report and its figures in headline.json.
rule synthetic:
    input:
        stage_tables("synthetic").values(),
        rules.report.output,


rule bandwidth:
    input:
        stage_tables("bandwidth").values(),
        rules.report.output,


rule hierarchy:
    input:
        stage_tables("hierarchy").values(),
        rules.report.output,


rule decode:
    input:
        stage_tables("decode").values(),
        rules.report.output,


rule quality:
    input:
        stage_tables("quality").values(),
        rules.report.output,


rule retrieval:
    input:
        stage_tables("retrieval").values(),
        rules.report.output,


rule store:
    input:
        stage_tables("store").values(),
        rules.report.output,


rule benchmark:
    input:
        benchmark_tables(RUN).values(),
