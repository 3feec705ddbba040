"""Which jobs an edit reruns: those whose fingerprint covers the edited module, and no other.

Snakemake reruns a job whose params changed, and every job that reads what it wrote (tests/workflow/test_rerun.py asks it).
"""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest
import yaml

from ghostkv.files import provenance
from ghostkv.files.jobs import Job
from ghostkv.stages.run import Run

ROOT = Path(__file__).parents[1]
RUN = Run.resolve(yaml.safe_load((ROOT / "tests/config/tiny.yaml").read_text()), ROOT / "resources")
WILDCARDS = {
    "runs": ("results", "elsewhere"),
    "layer": "00",
    "text": "prose_held_out_0",
    "part": "prose_0",
    "generator": "gaussian",
    "job": "qa_squad_768",
}


def _jobs() -> dict[str, Job]:
    """A job of each kind of the tiny run; the tensors of an import have no model that they could be captured from."""
    found = {}
    for file in (ROOT / "ghostkv").glob("*/**/jobs.py"):
        module = importlib.import_module(".".join(file.relative_to(ROOT).with_suffix("").parts))
        for cls in vars(module).values():
            own = isinstance(cls, type) and cls.__module__ == module.__name__ and hasattr(cls, "call")
            if own and cls.__name__ != "ImportTensors":
                wanted = cls.of.__code__.co_varnames[2 : cls.of.__code__.co_argcount]
                found[cls.__name__] = cls.of(RUN, **{name: WILDCARDS[name] for name in wanted})
    return found


JOBS = _jobs()


def rerun_by(module: str) -> set[str]:
    """Jobs whose fingerprint covers a module."""
    return {
        name
        for name, job in JOBS.items()
        if any(
            module in provenance.closure(one, job.uses) for one in (job.call.rpartition(".")[0], *job.uses)
        )
    }


DECODED = {
    "CalibrateLayer",
    "CertifyLayer",
    "SurvivorPatterns",
    "DecodeLayer",
    "DecodeGenerated",
    "HistoricalRun",
    "TimeOverlap",
}
SEATED = {"FitPolicies", "QualityTexts", "RetrievalPlan", "RetrievalTask", "WriteOn"}
CODED = {"SketchLayer", "SweepLayer", "PeersLayer", "MeasureGenerator"}
EDITS = {
    "a table that a stage derives": ("stages.frontier.tables", {"SummariseHeads"}),
    "its columns": (
        "stages.frontier.summary_schemas",
        {"SummariseHeads", "WriteReport", "DemoReport", "CompareRuns"},
    ),
    "a job": ("stages.certificates.layer", {"CertifyLayer"}),
    "the headline codec": (
        "codecs.transform_code",
        CODED | DECODED | {"QualityTexts", "WriteOn", "CacheLosses"},
    ),
    "the codec that policies read": (
        "codecs.turned_code",
        {"SketchLayer", "PeersLayer", "FitPolicies", "QualityTexts", "RetrievalPlan", "RetrievalTask"},
    ),
    "a codec beside it": ("codecs.gaussian", CODED),
    "a codec that the config does not name": ("codecs.learned", {"CalibrateLayer"}),
    "a selector": ("selectors.quest", {"PeersLayer", "QualityTexts", "RetrievalTask"}),
    "a selector that the config does not name": ("selectors.loki", set()),
    "a policy that the config may name": ("config.policies", set()),
    "what runs for a policy": ("runtime.load_policy", SEATED),
    "a section of the report": ("report.sections.capture", {"WriteReport", "DemoReport"}),
    "what a config may say": ("config.frontier", set()),
    "what a job depends on, which its params show": ("stages.frontier.jobs", set()),
}


@pytest.mark.parametrize(("module", "jobs"), EDITS.values(), ids=EDITS)
def test_an_edit_reruns_the_jobs_that_it_can_change(module, jobs):
    assert (ROOT / "ghostkv" / f"{module.replace('.', '/')}.py").is_file()
    assert rerun_by(f"ghostkv.{module}") == jobs


@pytest.mark.parametrize("room", ["runtime", "stages/quality", "stages/retrieval"])
def test_work_uses_values_of_policies_and_none_of_their_methods(room):
    """Their module is in no fingerprint, as an edit of a description would run hours of decoding again."""
    for path in (ROOT / "ghostkv" / room).glob("*.py"):
        if path.name in ("jobs.py", "families.py"):  # what plans a run
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute):
                owner = ast.unparse(node.value).split(".")[-1]
                assert node.attr not in ("record", "plain"), f"{path.name}: {ast.unparse(node)}"
                assert owner != "policy" or node.attr not in ("asked", "kind"), (
                    f"{path.name}: {ast.unparse(node)}"
                )
