# Validation and helpers, and no rules. What a config means is decided in the package; here it meets Snakemake.
import json
import os
import re
import sys

from snakemake.exceptions import WorkflowError
from snakemake.logging import logger

# The package beside this Snakefile, whatever else is installed: for this process and for the scripts it starts.
ROOT = str(workflow.basedir)
sys.path.insert(0, ROOT)
os.environ |= {"PYTHONPATH": os.pathsep.join(filter(None, [ROOT, os.getenv("PYTHONPATH")]))}
# Container images tend to forbid Python to keep byte code: then every job would compile torch and transformers again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
# glibc hands every large array back to the kernel, which zeroes it anew for the next one: a tenth of a forward pass.
for limit in ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"):
    os.environ.setdefault(limit, str(1 << 32))

from ghostkv.files.errors import GhostKVError
from ghostkv.files.processes import identity
from ghostkv.files.usage import CORES
from ghostkv.report.jobs import (
    asked_tables,
    compared_files,
    left_out,
    report_tables,
    shown_stages,
    tables_beside,
)
from ghostkv.stages.checks import check_device
from ghostkv.stages.plan.planning import resources, workload
from ghostkv.stages.relations import check_stage
from ghostkv.stages.run import Run, resources_of
from workflow.locks import Claims, end_with_claim
from workflow.screen import show

# A job ends with the Snakemake that started it, also when that is killed. The cores of a cluster are no run's.
CORES_OF_RUN = 0 if workflow.remote_exec else workflow.cores or os.cpu_count()
os.environ |= {"GHOSTKV_RUN": json.dumps(identity()), CORES: str(CORES_OF_RUN)}
CLAIMS = Claims()
if workflow.is_main_process:
    CLAIMS.enter()
    # Seen from the clone, or, in a --directory of its own, from anywhere.
    place = "" if os.path.samefile(os.curdir, ROOT) else f"{os.getcwd()}/"
    ends = {"report": "results/report", "demo_report": "results/demo/report", "plan": "results/plan/plan.txt"}
    ends["compare"] = "results/compare/compare.html"
    show(workflow, CLAIMS.advice(), {rule: f"{place}{page}" for rule, page in ends.items()})
elif workflow.remote_exec and not end_with_claim():
    raise WorkflowError("The run that this job belongs to has ended.")


def refused(work, *arguments):
    """What work(*arguments) returns; where it refuses its input, the message alone."""
    try:
        return work(*arguments)
    except GhostKVError as error:
        raise WorkflowError(str(error)) from None


# Snakemake puts the path of its Python unquoted into the command of a job.
if re.search(r"""[\s'"\\`$&;|<>()*?!#~]""", sys.executable):
    raise WorkflowError(
        f"{sys.executable}: a path with spaces or quotes, with which Snakemake starts no job."
        " Move the environment (or the clone that holds its .venv) to a path without."
    )

RESOURCES = resources_of(ROOT)
# Which finished runs are compared is no part of an experiment.
COMPARED = config.pop("runs", [])
RUN = refused(Run.resolve, config, RESOURCES, workflow.config_settings.config)
config.update(RUN.config.plain())
# Jobs of a cluster run on machines of other devices, and look for themselves.
if workflow.is_main_process and workflow.local_exec:
    refused(check_device, RUN.config)
# The same made small; its rules are in demo.smk.
DEMO = RUN.demo()
# What they have to do, which says what their jobs take.
WORK, DEMO_WORK = (refused(workload, run) for run in (RUN, DEMO))


def needs(rule, each=None):
    """Memory and time of a rule's jobs, by the formulas of a plan; of a process that does several, by wildcards of each."""
    return resources(WORK, rule, each)


def demo_needs(rule, each=None):
    """As `needs`, of the demonstration."""
    return resources(DEMO_WORK, rule, each)


def job_params(job):
    """What a job depends on beside its files, and the fingerprint of its code, for the wildcards of a rule."""
    return lambda wildcards: job.of(RUN, **dict(wildcards.items())).params()


def tables(job, folder):
    """The Parquet tables that a job leaves in a folder, by name."""
    return {name: f"{folder}/{name}.parquet" for name in job.tables}


def per_layer(path, layers=None):
    """A path with a layer wildcard, for all layers, or for some."""
    return expand(path, layer=RUN.layer_names(layers))


def layer_tables(job, stage, layers=None):
    """The tables that a job leaves in each layer's folder of a stage, by name."""
    folder = f"results/{stage}/layers/layer_{{layer}}"
    return {name: per_layer(path, layers) for name, path in tables(job, folder).items()}


def ended(message):
    """End the run with a message while its inputs are found.

    An error of Snakemake's would mean that no rule makes the outputs, and where they lie already from a run of another config
    it would go on with those.
    """
    logger.error(message)
    raise SystemExit(1) from None


def target(stage):
    """The tables of a stage beyond the frontier, for the target of its name."""

    def found(wildcards):
        try:
            return asked_tables(RUN, stage)
        except GhostKVError as error:
            ended(str(error))

    return found


def shown(wildcards):
    """The tables that the report shows, once the targets are known, which decide what stages beyond the frontier are its own."""
    try:
        return report_tables(RUN, workflow.dag_settings.targets) | tables_beside(RUN.config.report.beside)
    except GhostKVError as error:
        ended(str(error))


def compared(wildcards):
    """What is read of the runs that are compared."""
    try:
        return compared_files(RUN, COMPARED)
    except GhostKVError as error:
        ended(str(error))


def asked(stage, files=()):
    """Inputs of a stage, and with them the check that it can run under this config, which comes before anything runs."""

    def found(wildcards):
        try:
            check_stage(RUN, stage)
        except GhostKVError as error:
            made = stage in shown_stages(RUN, ["frontier"])
            cure = (
                f"\n  Or remove results/{stage}, as a report shows the stages that have run." if made else ""
            )
            ended(f"{error}{cure}")
        return files

    return found


def policy_codecs(stage):
    """The codecs of all layers, for policies that decode."""
    return asked(stage, per_layer(sketch_files()["codecs"]))


def one_of(names):
    """A wildcard constraint that matches these names; nothing, where there are none."""
    return "|".join(names) or "no text"


def capture_files():
    """The three files of a capture, with its text as a wildcard."""
    return {kind: f"results/capture/{{text}}/{kind}.parquet" for kind in ("kv", "queries", "layers")}


def captures():
    """Those files for all texts, in the order of the texts."""
    return {kind: expand(path, text=RUN.texts) for kind, path in capture_files().items()}


def trace_files():
    """The three files of the trace."""
    return {kind: f"results/trace/{kind}.parquet" for kind in ("kv", "queries", "layers")}


def sketch_files():
    """The two files of a layer's sketch, with the layer as a wildcard."""
    return {
        "codecs": "results/sketch/layer_{layer}/codecs.safetensors",
        "records": "results/sketch/layer_{layer}/records.parquet",
    }


def demo_params(job):
    """As `job_params`, of the demonstration."""
    return lambda wildcards: job.of(DEMO, **dict(wildcards.items())).params()


def demo_captures():
    """As `captures`, of the demonstration."""
    return {
        kind: expand(f"results/demo/capture/{{text}}/{kind}.parquet", text=DEMO.texts)
        for kind in capture_files()
    }


def demo_sketches():
    """As `sketch_files`, of the demonstration."""
    return {kind: path.replace("results/", "results/demo/") for kind, path in sketch_files().items()}


wildcard_constraints:
    layer=r"\d\d+",


# Snakemake's limit on jobs a second (9.27) leaves, at every look for jobs, a timer that causes another look a second later.
# They add up until the scheduler takes half a core. Jobs that are processes on this machine need no such limit.
onstart:
    CLAIMS.took(workflow)
    if lacking := left_out(RUN, workflow.dag_settings.targets):
        logger.warning(lacking)
    if workflow.local_exec:
        workflow.scheduler.job_rate_limiter = None
