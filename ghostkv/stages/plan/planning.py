"""Every job of a run, what it does, and what it therefore asks for.

The one place that `mem_mb` and `runtime` of the rules, `snakemake plan` and the comparison in the report come from. Snakemake
reads it for every job: nothing slow is imported.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ghostkv.config.quality import text_parts
from ghostkv.stages.plan import layer_work, model_work, reproduced_work
from ghostkv.stages.plan.costs import cost_of
from ghostkv.stages.plan.terms import PlannedJobs, Terms
from ghostkv.stages.plan.workload import Workload

if TYPE_CHECKING:
    from ghostkv.stages.run import Run

# What the rules ask for beyond the formulas: a scheduler kills a job that takes more.
_MEMORY_MARGIN, _TIME_MARGIN, _LEAST_MINUTES = 1.2, 4.0, 10
# Jobs in which other formulas and rates serve a rule than those of its own name: small tables are joined alike.
_SMALL = "small_gather"
_ALIKE = {
    "gather_frontier": "gather", "demo_gather": "gather", "demo_heads": "summarise_heads", "demo_report": "report",
    **{f"gather_{stage}": _SMALL for stage in
       ("calibrated", "certificates", "peers", "hierarchy", "decode", "retrieval", "synthetic")},
    "compare_plan": _SMALL, "plan": _SMALL, "compare": "report", "retrieval_short": "retrieval_task", "demo_texts": "assemble_texts",
    "demo_capture": "capture_text", "demo_sketch": "sketch_layer", "demo_sweep": "sweep_layer",
}  # fmt: skip
# Where formulas stand, by the name of their rule.
_WORK = (model_work, layer_work, reproduced_work)
# Rules whose rates are those of another, as they do the like: what was measured of either says something of both.
_LIKE = {
    "trace_text": "capture_text", "capture_overhead": "capture_text", "import_tensors": "sketch_layer",
}  # fmt: skip


@dataclass(frozen=True)
class _Process:
    """One process: where its log lies, its rule, and wildcards; several where it does the work of several jobs."""

    stage: str
    log: str
    rule: str
    each: tuple[Mapping[str, str], ...] = field(default=({},))


def terms_of(work: Workload, rule: str, each: Iterable[Mapping[str, str]] = ({},)) -> Terms:
    """What a job of a rule does, or one process that does several."""
    name = _ALIKE.get(rule, rule)
    formula = next(found for work_of in _WORK if (found := getattr(work_of, name, None)))
    return Terms.together(formula(work, **wildcards) for wildcards in each)


def rates_name(rule: str) -> str:
    """Under which name of `RATES` the rates of a rule stand."""
    return _LIKE.get(rule, _ALIKE.get(rule, rule))


def asked(work: Workload, rule: str, each: Iterable[Mapping[str, str]] = ({},)) -> dict[str, int]:
    """What a rule asks a scheduler for: `mem_mb`, and `runtime` in minutes.

    With margins, as the scheduler's machines were not measured: memory 1.2 times what the formulas say, time 4 times the CPU
    seconds of one thread and at least 10 minutes.
    """
    cost = cost_of(rates_name(rule), terms_of(work, rule, each))
    return {
        "mem_mb": math.ceil(_MEMORY_MARGIN * 1000 * cost.memory_gb),
        "runtime": max(_LEAST_MINUTES, math.ceil(_TIME_MARGIN * cost.cpu_seconds / 60)),
    }


def workload(run: Run) -> Workload:
    """A run as a plan sees it, of a model that may not be here yet."""
    return Workload(run.config, run.layers, run.size, run.model.max_context)


def planned_jobs(work: Workload) -> list[PlannedJobs]:
    """Every job of a run of all stages, in their order; of imported tensors those that need no model."""
    alike: dict[tuple, tuple[Terms, list[str]]] = {}
    for one in _processes(work):
        terms = terms_of(work, one.rule, one.each)
        key = (one.stage, rates_name(one.rule), *terms.cpu.items(), *terms.memory.items())
        alike.setdefault(key, (terms, []))[1].append(one.log)
    return [
        PlannedJobs(stage, rates, tuple(logs), terms) for (stage, rates, *_), (terms, logs) in alike.items()
    ]


def _processes(work: Workload) -> list[_Process]:
    config = work.config
    texts, layers = config.text_names(), [f"{layer:02d}" for layer in work.layers]
    held_out = [name for name, entry in texts.items() if entry["role"] == "held_out"]
    short = config.retrieval.short_jobs()
    decoded = [f"{layer:02d}" for layer in layer_work.spread(work.layers, config.decode.layers)]

    def each(stage: str, rule: str, key: str, names: Iterable[str], log: str = "{}") -> list[_Process]:
        return [_Process(stage, log.format(name), rule, ({key: name},)) for name in names]

    def by_layer(stage: str, rule: str, some: Iterable[str] = layers) -> list[_Process]:
        return each(stage, rule, "layer", some, "layer_{}")

    def one(stage: str, rule: str, log: str = "gather") -> _Process:
        return _Process(stage, log, rule)

    of_the_model = [
        one("model", "fetch_model", config.model.name),
        one("texts", "assemble_texts", "texts"),
        *each("capture", "capture_text", "text", texts),
        one("trace", "trace_text", "trace"),
        *by_layer("hierarchy", "hierarchy_layer"),
        one("hierarchy", "gather_hierarchy"),
        *by_layer("decode", "decode_layer", decoded),
        one("decode", "decode_synthetic", "synthetic"),
        one("decode", "time_overlap", "overlap"),
        one("decode", "gather_decode"),
        one("historical", "run_historical", "historical"),
        one("quality", "fit_quality", "fit"),
        *each("quality", "quality_texts", "part", text_parts(held_out)),
        one("quality", "gather_quality"),
        one("retrieval", "retrieval_plan", "plan"),
        *each(
            "retrieval", "retrieval_task", "job", (job for job in config.retrieval.jobs() if job not in short)
        ),
        *[_Process("retrieval", "short", "retrieval_task", tuple({"job": job} for job in short))]
        * bool(short),
        one("retrieval", "gather_retrieval"),
        one("speed", "time_steps", "steps"),
        one("benchmark", "capture_overhead", "capture_overhead"),
    ]
    of_tensors = [
        *by_layer("sketch", "sketch_layer"),
        *by_layer("frontier", "sweep_layer"),
        one("frontier", "gather_frontier"),
        one("frontier", "summarise_heads", "heads"),
        *by_layer("certificates", "certify_layer"),
        one("certificates", "gather_certificates"),
        *by_layer("calibrated", "calibrate_layer"),
        one("calibrated", "gather_calibrated"),
        *by_layer(
            "peers",
            "peers_layer",
            [f"{layer:02d}" for layer in layer_work.spread(work.layers, config.peers.layers)],
        ),
        one("peers", "gather_peers"),
        *each("synthetic", "synthetic_generator", "generator", config.synthetic.labels()),
        one("synthetic", "gather_synthetic"),
        one("bandwidth", "survivor_patterns", "patterns"),
        one("bandwidth", "cache_losses", "losses"),
        one("bandwidth", "measure_memory", "measure"),
        one("bandwidth", "model_bandwidth", "model"),
        one("benchmark", "sweep_speed", "sweep_speed"),
        one("speed", "time_layers", "layers"),
        one("store", "store_trials", "trials"),
        one("store", "store_speed", "speed"),
        one("reproduce", "character_table", "characters"),
        one("reproduce", "repeat_predecessor", "predecessor"),
        one("reproduce", "recall_table", "recall"),
        one("reproduce", "error_table", "errors"),
        one("report", "report", "report"),
    ]
    read = each("capture", "import_tensors", "text", texts)
    found = [*read, *of_tensors] if config.capture.import_ else [*of_the_model, *of_tensors]
    order = list(type(config).model_fields)
    return sorted(found, key=lambda job: order.index(job.stage))


def resources(work: Workload, rule: str, each: Iterable[Mapping[str, str]] | None = None) -> dict[str, Any]:
    """`asked` as Snakemake takes it: functions of a rule's wildcards, or fixed for a process that does several jobs."""
    if each is not None:
        return asked(work, rule, each)

    def of_wildcards(name: str) -> Any:
        return lambda wildcards: asked(work, rule, [dict(wildcards.items())])[name]

    return {name: of_wildcards(name) for name in ("mem_mb", "runtime")}
