# Validation and helpers, and no rules. What a config means is decided in ghostkv/config; here it meets Snakemake.
import fcntl
import os
import sys

from snakemake.exceptions import WorkflowError
from snakemake.utils import validate

# The package beside this Snakefile, whatever else is installed: for this process and for the scripts it starts.
ROOT = str(workflow.basedir)
RESOURCES = os.path.relpath(f"{ROOT}/resources")
sys.path.insert(0, ROOT)
os.environ |= {"PYTHONPATH": os.pathsep.join(filter(None, [ROOT, os.getenv("PYTHONPATH")]))}
# Container images tend to forbid Python to keep byte code: then every job would compile torch and transformers again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
# glibc hands every large array back to the kernel, which zeroes it anew for the next one: a tenth of a forward pass.
for limit in ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"):
    os.environ.setdefault(limit, str(1 << 32))

from ghostkv.stages.checks import check_files, check_model
from ghostkv.config.experiment import load_config
from ghostkv.sources.documents import local_files
from ghostkv.files.errors import GhostKVError
from ghostkv.files.provenance import fingerprint
from ghostkv.sources.registry import check_domains, read_sources, resolve_model

# A killed run leaves Snakemake's lock behind, and every later one would stop at it. The kernel knows better: while a
# run lives it shares this file, so whoever gets it alone may clear what the dead left.
os.makedirs(".snakemake", exist_ok=True)
ALIVE = open(".snakemake/alive", "a")
try:
    fcntl.flock(ALIVE, fcntl.LOCK_EX | fcntl.LOCK_NB)
    for lock in Path(".snakemake/locks").glob("*.lock"):
        lock.unlink(missing_ok=True)
except OSError:
    pass
fcntl.flock(ALIVE, fcntl.LOCK_SH)

try:
    CONFIG = load_config(config)
    MODEL = resolve_model(CONFIG.model.name, CONFIG.model.plain()["custom"], f"{RESOURCES}/models.yaml")
    LAYERS = check_model(CONFIG, MODEL.layers, MODEL.max_context)
    TRACE = CONFIG.trace_text(MODEL.max_context)
    check_files(CONFIG)
    check_domains(CONFIG.texts.domains, f"{RESOURCES}/texts.yaml")
    SOURCES = {
        domain: read_sources(f"{RESOURCES}/texts.yaml")[domain].plain() for domain in CONFIG.texts.domains
    }
except GhostKVError as error:
    raise WorkflowError(str(error)) from None

config.update(CONFIG.plain())
try:
    validate(config, "../schemas/config.schema.json", set_default=False)
except WorkflowError:
    # The models have just accepted it, so it is the schema that is wrong.
    raise WorkflowError(
        "workflow/schemas/config.schema.json is older than ghostkv/config.\n  Run: python -m ghostkv.config --write"
    ) from None

MODEL_FOLDER = f"resources/models/{CONFIG.model.name}"
TEXTS = CONFIG.text_names()
# The folder of captured tensors, for texts that no model reads.
IMPORTS = {name: entry["custom"] for name, entry in TEXTS.items() if CONFIG.capture.import_}
CAPTURES = [
    {"text": name, "domain": entry["domain"], "role": entry["role"], "folder": f"results/capture/{name}"}
    for name, entry in TEXTS.items()
]

LAYER_TABLES = ("sweep", "points", "context", "bounds")
FRONTIER_TABLES = (*LAYER_TABLES, "safe_points", "layer_head")
CERTIFICATE_TABLES = ("certificates", "checks")
CALIBRATED_LAYER_TABLES = ("calibrated", "bands", "cross_domain", "texts", "learned")
CALIBRATED_TABLES = (*CALIBRATED_LAYER_TABLES, "summary", "dependence")
PEER_LAYER_TABLES = ("peers", "layers")
PEER_TABLES = (*PEER_LAYER_TABLES, "summary", "comparison", "verdicts")
HISTORICAL_TABLES = ("sweep", "ablation", "knobs")
SYNTHETIC_GENERATORS = CONFIG.synthetic.labels()
SYNTHETIC_GENERATOR_TABLES = ("audit", "sweep", "points", "decode")
BANDWIDTH_MEASURED = ("samples", "counts")
BANDWIDTH_TABLES = ("fits", "errors", "survivors", "steps", "crossings", "maps", "sensitivity")
HIERARCHY_LAYER_TABLES = ("heads", "checks")
DECODE_TABLES = ("steps", "spread", "losses", "loss_steps", "budgets", "store")
QUALITY_TEXT_TABLES = ("positions", "traffic", "runs", "ablation", "generations")
QUALITY_TABLES = (*QUALITY_TEXT_TABLES, "summary", "equal_bytes")
QUALITY_TEXTS = [name for name, entry in TEXTS.items() if entry["role"] == "held_out" and name not in IMPORTS]
STORE_TRIALS, STORE_TIMES = ("kills", "corruptions"), ("gathers", "appends")
# Stages beyond the frontier, and the tables that each leaves in its folder. The report shows those that were made.
STAGE_TABLES = {
    "hierarchy": (*HIERARCHY_LAYER_TABLES, "fits"),
    "decode": DECODE_TABLES,
    "synthetic": (*SYNTHETIC_GENERATOR_TABLES, "checks"),
    "bandwidth": (*BANDWIDTH_MEASURED, *BANDWIDTH_TABLES),
    "store": (*STORE_TRIALS, *STORE_TIMES),
    "quality": (*QUALITY_TABLES, "speed"),
    "retrieval": ("answers", "cells", "summary"),
}
# Those that run the model or read its trace, which imported tensors do not have.
MODEL_STAGES = ("hierarchy", "decode", "quality", "retrieval")


def bandwidth_layers():
    """Layers whose survivors give index patterns, spread evenly over all."""
    count = min(CONFIG.bandwidth.measure.layers, len(LAYERS))
    return [LAYERS[step * (len(LAYERS) - 1) // max(1, count - 1)] for step in range(count)]


def decode_layers():
    """Layers whose trace is decoded, spread evenly over all."""
    count = min(CONFIG.decode.layers, len(LAYERS))
    return [LAYERS[step * (len(LAYERS) - 1) // max(1, count - 1)] for step in range(count)]


# The operating point whose survivors the memory model takes: the headline design at the least loss of one kind.
BANDWIDTH_POINT = {
    **{name: CONFIG.frontier.plain()[name] for name in ("headline", "sinks", "hot", "top_k")},
    "target_metric": CONFIG.bandwidth.point,
    "target": min(CONFIG.frontier.plain()["targets"][CONFIG.bandwidth.point], default=0.0),
}

# The branch of the config that a stage's output depends on, and no more: what is not here reruns nothing.
BRANCHES = {
    "model": {"name": CONFIG.model.name, "entry": MODEL.plain()},
    "texts": {
        "names": TEXTS | TRACE,
        "tokens": CONFIG.capture.tokens,
        "seed": CONFIG.texts.seed,
        "sources": SOURCES,
    },
    "capture": CONFIG.capture.plain(without=("threads", "import"))
    | {"layers": LAYERS, "dtype": CONFIG.model.dtype},
    "trace": next(({"text": name, **entry} for name, entry in TRACE.items()), {})
    | CONFIG.capture.plain(without=("threads", "import", "tokens", "query_bands", "seed"))
    | {"layers": LAYERS, "dtype": CONFIG.model.dtype},
    "sketch": CONFIG.sketch.plain() | {"captures": CAPTURES},
    "frontier": CONFIG.frontier.plain()
    | {
        "codecs": CONFIG.sketch.plain()["codecs"],
        "query_bands": CONFIG.capture.plain()["query_bands"],
        "captures": CAPTURES,
    },
    "certificates": CONFIG.certificates.plain()
    | CONFIG.frontier.plain(without=("rules", "targets", "safe"))
    | CONFIG.sketch.plain()
    | {"captures": CAPTURES},
    "calibrated": CONFIG.calibrated.plain()
    | {
        **CONFIG.sketch.plain(),
        "frontier": CONFIG.frontier.plain(without=("targets", "safe")),
        "captures": CAPTURES,
    },
    # Selectors are found by name, so their code is not in the stage's fingerprint.
    "peers": CONFIG.peers.plain()
    | {
        "exact": {
            name: CONFIG.frontier.plain()[name] for name in ("sinks", "hot", "top_k", "headline_start")
        },
        "codecs": CONFIG.sketch.plain()["codecs"],
        "sketch_seed": CONFIG.sketch.seed,
        "captures": CAPTURES,
        "selector_code": {
            entry.name: fingerprint(f"ghostkv.selectors.{entry.name}") for entry in CONFIG.peers.selectors
        },
    },
    "hierarchy": CONFIG.hierarchy.plain()
    | {name: CONFIG.frontier.plain()[name] for name in ("sinks", "hot", "top_k")}
    | {name: CONFIG.certificates.plain()[name] for name in ("levels", "shares", "probes")}
    | {
        "captures": CAPTURES,
        "trace": next(
            (
                {"text": name, "domain": entry["domain"], "folder": "results/trace"}
                for name, entry in TRACE.items()
            ),
            None,
        ),
    },
    "decode": CONFIG.decode.plain()
    | {name: CONFIG.frontier.plain()[name] for name in ("headline", "sinks", "hot", "top_k")}
    | {
        "frontier": {
            name: CONFIG.frontier.plain()[name]
            for name in ("headline", "sinks", "hot", "top_k", "rules", "safe")
        },
        "target_metric": "fer",
        "target": min(CONFIG.frontier.targets.fer, default=0.0),
        "store_layer": decode_layers()[len(decode_layers()) // 2],
    },
    "historical": CONFIG.historical.plain()
    | {"captures": CAPTURES, "layers": LAYERS, "dtype": CONFIG.model.dtype},
    "synthetic": CONFIG.synthetic.plain(without=("generators",)) | {"frontier": CONFIG.frontier.plain()},
    "store": CONFIG.store.plain(),
    "benchmark": CONFIG.benchmark.plain() | {"dtype": CONFIG.model.dtype},
    # Measured apart: other presets or schemes time nothing again.
    "bandwidth_measure": CONFIG.bandwidth.measure.plain()
    | BANDWIDTH_POINT
    | {"codecs": CONFIG.sketch.plain()["codecs"], "captures": CAPTURES, "chosen": bandwidth_layers()},
    "bandwidth": CONFIG.bandwidth.plain() | BANDWIDTH_POINT | {"model": CONFIG.model.name, "layers": LAYERS},
    "quality_gather": {
        name: CONFIG.quality.plain()[name] for name in ("headline", "block", "replicates", "seed")
    },
    # Decoded apart: another interval decodes nothing again.
    "quality": CONFIG.quality.plain(without=("threads", "block", "replicates", "seed"))
    | {
        "context": CONFIG.capture.tokens - CONFIG.quality.continuation,
        "texts": QUALITY_TEXTS,
        "captures": CAPTURES,
        "layers": LAYERS,
        "model_layers": MODEL.layers,
        "start": CONFIG.frontier.headline_start,
        "points": "results/frontier/points.parquet",
        "dtype": CONFIG.model.dtype,
        "selector_code": {
            name: fingerprint(f"ghostkv.selectors.{name}") for name in CONFIG.quality.selectors()
        },
    },
    "retrieval": CONFIG.retrieval.plain(without=("tasks",))
    | {
        "jobs": CONFIG.retrieval.jobs(),
        "dtype": CONFIG.model.dtype,
        "sources": {
            "layers": LAYERS,
            "model_layers": MODEL.layers,
            "sketch": "results/sketch",
            "captures": CAPTURES,
            "points": "results/frontier/points.parquet",
            "start": CONFIG.frontier.headline_start,
        },
        "selector_code": {
            name: fingerprint(f"ghostkv.selectors.{name}") for name in CONFIG.retrieval.selectors()
        },
    },
    "report": CONFIG.report.plain()
    | {"config": CONFIG.plain() | {"capture": CONFIG.capture.plain(without=("threads",))}, "layers": LAYERS},
}


def stage_params(branch, job):
    """A branch of the config and the fingerprint of a job's code, such as "frontier.layer".

    One dict of plain values per rule: Snakemake compares the params of a rule as an unordered set of reprs.
    """
    return {"code": fingerprint(f"ghostkv.stages.{job}")} | BRANCHES[branch]


def import_params(wildcards):
    """The params of one imported text, which depends on its own folder alone."""
    return stage_params("capture", "capture.imported") | {"text": wildcards.text} | IMPORTS[wildcards.text]


def synthetic_params(wildcards):
    """The params of one generator, which depends on its own entry alone."""
    entry = SYNTHETIC_GENERATORS[wildcards.generator]
    return stage_params("synthetic", "synthetic.generator") | {"label": wildcards.generator, "generator": entry}


def retrieval_files(wildcards):
    """The user's own files that tasks are built from; none where they come from a wheel.

    Called where questions are asked for, so that tasks too long for the model disturb no other stage.
    """
    try:
        CONFIG.retrieval.check_lengths(MODEL.max_context, CONFIG.model.name)
    except GhostKVError as error:
        raise WorkflowError(str(error)) from None
    data = CONFIG.retrieval.data
    return [] if data == "ruler" else sorted(map(str, Path(data).glob("*.json")))


def one_of(names):
    """A wildcard constraint that matches these names; nothing, where there are none."""
    return "|".join(names) or "no text"


def own_files():
    """Files on this machine that texts are made of: the user's own, and those of domains of kind files."""
    return local_files(TEXTS | TRACE, SOURCES)


def capture_files():
    """The three files of a capture, with its text as a wildcard."""
    return {kind: f"results/capture/{{text}}/{kind}.parquet" for kind in ("kv", "queries", "layers")}


def captures():
    """Those files for all texts, in the order of the texts."""
    return {kind: expand(path, text=TEXTS) for kind, path in capture_files().items()}


def trace_files():
    """The three files of the trace."""
    return {kind: f"results/trace/{kind}.parquet" for kind in ("kv", "queries", "layers")}


def stage_tables(stage):
    """The tables of a stage beyond the frontier."""
    return tables(f"results/{stage}", STAGE_TABLES[stage])


def extra_stages():
    """Stages beyond the frontier that the report shows: those asked for, and those made before."""
    asked = set(workflow.dag_settings.targets)
    everything = not asked or asked & {"all", "results"}
    return [
        stage
        for stage in STAGE_TABLES
        if not (IMPORTS and stage in MODEL_STAGES)
        and (everything or stage in asked or any(map(os.path.exists, stage_tables(stage).values())))
    ]


def imported_files(wildcards):
    """The tensors that stand for a text."""
    folder = IMPORTS[wildcards.text]["folder"]
    return sorted(str(path) for end in ("npz", "safetensors") for path in Path(folder).glob(f"*.{end}"))


def sketch_files():
    """The two files of a layer's sketch, with the layer as a wildcard."""
    return {
        "codecs": "results/sketch/layer_{layer}/codecs.safetensors",
        "records": "results/sketch/layer_{layer}/records.parquet",
    }


def per_layer(path):
    """A path with a layer wildcard, for all layers."""
    return expand(path, layer=[f"{layer:02d}" for layer in LAYERS])


def tables(folder, names):
    """Parquet tables of a folder by name."""
    return {name: f"{folder}/{name}.parquet" for name in names}


def benchmark_tables():
    """What is timed; capture only where a model is captured."""
    return tables("results/benchmark", ["sweep_speed"] if IMPORTS else ["capture_overhead", "sweep_speed"])


def report_tables(wildcards):
    """Every table that the report shows, by stage and name; a report on imported tensors has no model to ask.

    Called once the targets are known, as they decide which stages beyond the frontier belong to the report.
    """
    found = {f"frontier_{name}": path for name, path in tables("results/frontier", FRONTIER_TABLES).items()}
    found |= {
        f"certificates_{name}": path
        for name, path in tables("results/certificates", CERTIFICATE_TABLES).items()
    }
    found |= {
        f"calibrated_{name}": path for name, path in tables("results/calibrated", CALIBRATED_TABLES).items()
    }
    found |= {f"benchmark_{name}": path for name, path in benchmark_tables().items()}
    found |= {f"peers_{name}": path for name, path in tables("results/peers", PEER_TABLES).items()}
    found |= {"capture_layers": captures()["layers"]}
    for stage in extra_stages():
        found |= {f"{stage}_{name}": path for name, path in stage_tables(stage).items()}
    if not IMPORTS:
        found |= {
            f"historical_{name}": path
            for name, path in tables("results/historical", HISTORICAL_TABLES).items()
        }
        found |= {
            "model_manifest": f"{MODEL_FOLDER}/manifest.json",
            "texts_texts": "results/texts/texts.parquet",
        }
    return found


wildcard_constraints:
    layer=r"\d\d+",


# Snakemake's limit on jobs a second (9.27) leaves, at every look for jobs, a timer that causes another look a second later.
# They add up until the scheduler takes half a core. Jobs that are processes on this machine need no such limit.
onstart:
    if workflow.local_exec:
        workflow.scheduler.job_rate_limiter = None
