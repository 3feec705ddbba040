"""Jobs travel as plain values, come back as they were, and hold nothing that a fingerprint would miss."""

from __future__ import annotations

import ast
import inspect
import json
import textwrap
from dataclasses import MISSING, fields
from importlib import import_module

import numpy as np
import pytest
from pydantic import ValidationError

from ghostkv.config.quality import text_parts
from ghostkv.files import provenance
from ghostkv.files.jobs import Job, named
from ghostkv.stages.run import Run

ROOT = provenance.PACKAGE.parent


def _module(path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def _subclasses(cls: type) -> set[type]:
    return {cls}.union(*map(_subclasses, cls.__subclasses__()))


# Where jobs are defined, and values that only they have; files/jobs.py has what all share.
HOMES = sorted({_module(path) for path in provenance.PACKAGE.rglob("jobs.py")} - {Job.__module__})
DEFINED = {value for home in HOMES for value in vars(import_module(home)).values() if isinstance(value, type)}
CLASSES = sorted(
    {cls for cls in DEFINED if cls.__module__ in HOMES} | (_subclasses(Job) - {Job}),
    key=lambda cls: cls.__qualname__,
)
JOBS = [cls for cls in CLASSES if hasattr(cls, "call")]
every_job = pytest.mark.parametrize("cls", JOBS, ids=lambda cls: cls.__name__)


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    """`build(cls)` -> its job in the default run, made anew; an import's in a run of imported tensors."""
    folder = tmp_path_factory.mktemp("tensors")
    np.savez(folder / "layer0.npz", q=np.zeros((4096, 64), np.float16), k=np.zeros((4096, 64), np.float16))
    tensors = [
        {"folder": str(folder), "domain": "mine", "role": role} for role in ("codec", "threshold", "held_out")
    ]

    def made(cls: type[Job]) -> Job:
        raw = {"capture": {"import": tensors}} if cls.__name__ == "ImportTensors" else {}
        run = Run.resolve(raw, ROOT / "resources")
        wildcards = {
            "layer": run.layer_names()[-1],
            "text": list(run.texts)[-1],
            "part": next(iter(text_parts(run.texts_of("held_out"))), ""),
            "generator": list(run.config.synthetic.labels())[-1],
            "job": list(run.config.retrieval.jobs())[-1],
            "runs": ["results", "../other/results"],
        }
        _, *wanted = inspect.signature(cls.of).parameters.values()
        return cls.of(run, *(wildcards[parameter.name] for parameter in wanted))

    return made


def test_every_stage_has_jobs_and_every_job_its_home():
    stages = {path.name for path in (provenance.PACKAGE / "stages").iterdir() if (path / "jobs.py").is_file()}
    assert {cls.__module__ for cls in JOBS} == {f"ghostkv.stages.{stage}.jobs" for stage in stages} | {
        "ghostkv.report.jobs"
    }
    # The report of the demonstration is a report.
    own = [cls for cls in JOBS if "call" in vars(cls)]
    assert len({cls.call for cls in own}) == len(own) > 20


@every_job
def test_params_are_plain_and_the_same_every_time(build, cls):
    params = build(cls).params()
    assert json.loads(json.dumps(params)) == params
    assert repr(build(cls).params()) == repr(params)
    assert params["code"] == provenance.fingerprint(cls.call.rpartition(".")[0], *params["uses"])


@every_job
def test_a_job_comes_back_from_its_params(build, cls):
    job, params = build(cls), build(cls).params()
    assert named(params.pop("job")) is cls
    read = cls.read(json.loads(json.dumps(params)))
    assert read.code == params["code"] != job.code
    # By what they hold of them: sizes that a plan alone reads stay out of params.
    assert read.params() == job.params()


@every_job
def test_what_is_missing_or_belongs_to_no_field_is_refused(build, cls):
    params = build(cls).params()
    params.pop("job")
    with pytest.raises(ValidationError, match="no_such_field"):
        cls.read(params | {"no_such_field": 1})
    for needed in (field.name for field in fields(cls) if field.default is MISSING):
        with pytest.raises(ValidationError, match=needed):
            cls.read({name: value for name, value in params.items() if name != needed})


@every_job
def test_what_a_job_calls_takes_the_job_and_the_files_of_its_rule(cls):
    first, second, third, *rest = inspect.signature(named(cls.call)).parameters.values()
    assert (first.name, second.name, third.name) == ("job", "inputs", "outputs")
    # Anything else but threads has a default, as the workflow does not give it.
    assert all(parameter.name == "threads" or parameter.default is not parameter.empty for parameter in rest)


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_a_job_is_values_and_how_a_run_gives_them(cls):
    """Its module is in no fingerprint: what it did beyond that could change and nothing would run again."""
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    assert [ast.unparse(decorator) for decorator in tree.decorator_list] == ["dataclass(frozen=True)"]
    constants = {name for name, kind in Job.__annotations__.items() if kind.startswith("ClassVar")}
    assert constants == {"call", "tables", "sections"}
    assert isinstance(tree.body[0], ast.Expr), "a docstring"
    for node in tree.body[1:]:
        if isinstance(node, ast.Assign):
            assert {ast.unparse(target) for target in node.targets} <= constants
        elif isinstance(node, ast.AnnAssign):
            assert node.target.id in cls.__dataclass_fields__
            assert isinstance(node.value, ast.Constant | None) or ast.unparse(node.value) == "()"
        else:
            assert isinstance(node, ast.FunctionDef), ast.unparse(node)
            assert node.name == "of"
            assert [ast.unparse(decorator) for decorator in node.decorator_list] == ["classmethod"]


def test_work_knows_jobs_by_their_type_alone():
    """Only modules that plan a run import jobs when they run; the bases of jobs count as jobs."""
    homes = {cls.__module__ for cls in CLASSES}
    planning = homes | {"ghostkv.stages.run"}
    importers = {
        name: sorted(homes & set(provenance._read(name)[1]))
        for name in map(_module, provenance.PACKAGE.rglob("*.py"))
        if name.removesuffix(".__init__") not in planning
    }
    assert {name: found for name, found in importers.items() if found} == {}
    for cls in JOBS:
        assert not planning & set(provenance.closure(cls.call.rpartition(".")[0])), cls
