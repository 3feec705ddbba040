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
include: "workflow/rules/reproduce.smk"
include: "workflow/rules/benchmark.smk"
include: "workflow/rules/speed.smk"
include: "workflow/rules/store.smk"
include: "workflow/rules/plan.smk"
include: "workflow/rules/report.smk"
include: "workflow/rules/compare.smk"
include: "workflow/rules/demo.smk"


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


rule demo:
    input:
        rules.demo_report.output,


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
rule certificates:
    input:
        target("certificates"),
        rules.report.output,


rule calibrated:
    input:
        target("calibrated"),
        rules.report.output,


rule peers:
    input:
        target("peers"),
        rules.report.output,


rule hierarchy:
    input:
        target("hierarchy"),
        rules.report.output,


rule decode:
    input:
        target("decode"),
        rules.report.output,


rule historical:
    input:
        target("historical"),
        rules.report.output,


rule synthetic:
    input:
        target("synthetic"),
        rules.report.output,


rule bandwidth:
    input:
        target("bandwidth"),
        rules.report.output,


rule quality:
    input:
        target("quality"),
        rules.report.output,


rule retrieval:
    input:
        target("retrieval"),
        rules.report.output,


rule reproduce:
    input:
        target("reproduce"),
        rules.report.output,


rule benchmark:
    input:
        target("benchmark"),
        rules.report.output,


rule speed:
    input:
        target("speed"),
        rules.report.output,


rule store:
    input:
        target("store"),
        rules.report.output,
