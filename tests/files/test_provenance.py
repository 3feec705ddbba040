"""Fingerprints change with code and with nothing else."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ghostkv.codecs import by_name
from ghostkv.config.selectors import selector_names
from ghostkv.files import provenance

ROOT = Path(__file__).parents[2]
# The modules whose functions the workflow calls, as the dataclasses of the jobs name them.
JOBS = sorted(
    {
        value.call.rpartition(".")[0]
        for file in provenance.PACKAGE.rglob("jobs.py")
        for value in vars(
            importlib.import_module(".".join(file.relative_to(ROOT).with_suffix("").parts))
        ).values()
        if isinstance(value, type) and hasattr(value, "call")
    }
)
FILES = {
    "__init__.py": '"""The package."""\n',
    "stages/__init__.py": "",
    "stages/sketch.py": (
        '"""Sketch."""\nfrom ghostkv.codecs import pca\nfrom ..files.io import write\n\n\n'
        'def run():\n    """Do it."""\n    from ghostkv.models.load import load\n'
        "    return pca, write, load  # all\n"
    ),
    "stages/capture.py": "from ghostkv.files import io\n",
    "codecs/__init__.py": 'MODULES = ["ghostkv.codecs.low_bit"]\n',
    "codecs/pca.py": "def fit(x):\n    return x + 1\n",
    "codecs/low_bit.py": "def fit(x):\n    return x\n",
    "models/__init__.py": "",
    "models/load.py": "raise RuntimeError('a fingerprint imports nothing')\n",
    "report/__init__.py": "",
    "report/page.html.jinja": "<html></html>\n",
    "stages/report.py": "import ghostkv.report\n",
    "files/__init__.py": "",
    "files/io.py": "def write():\n    pass\n",
}


class Package:
    """A small package with its own copy of provenance.py."""

    def __init__(self, folder: Path):
        self.folder = folder / "ghostkv"
        for name, text in FILES.items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        shutil.copy(provenance.__file__, self.folder / "files/provenance.py")

    def fresh(self):
        """provenance.py as a new process would load it."""
        spec = importlib.util.spec_from_file_location(
            "copied_provenance", self.folder / "files/provenance.py"
        )
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    def fingerprint(self, stage: str = "sketch") -> str:
        return self.fresh().fingerprint(f"ghostkv.stages.{stage}")

    def edit(self, name: str, old: str, new: str) -> None:
        text = (self.folder / name).read_text()
        assert old in text
        (self.folder / name).write_text(text.replace(old, new))


@pytest.fixture
def package(tmp_path):
    return Package(tmp_path)


def test_closure_holds_all_that_runs_and_no_more(package):
    assert package.fresh().closure("ghostkv.stages.sketch") == (
        "ghostkv",
        "ghostkv.codecs",
        "ghostkv.codecs.low_bit",
        "ghostkv.codecs.pca",
        "ghostkv.files",
        "ghostkv.files.io",
        "ghostkv.models",
        "ghostkv.models.load",
        "ghostkv.stages",
        "ghostkv.stages.sketch",
    )


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("stages/sketch.py", "# all", "# another comment"),
        ("stages/sketch.py", '"""Do it."""', '"""Do it, said better."""'),
        ("stages/sketch.py", '"""Sketch."""', '"""A longer\n\nmodule docstring."""'),
        ("codecs/pca.py", "return x + 1", "return (\n        x + 1\n    )"),
    ],
    ids=["comment", "docstring", "module docstring", "layout"],
)
def test_what_is_not_code_changes_nothing(package, file, old, new):
    before = package.fingerprint()
    package.edit(file, old, new)
    assert package.fingerprint() == before


def test_a_touch_changes_nothing(package):
    before = package.fingerprint()
    os.utime(package.folder / "codecs/pca.py", (1, 1))
    assert package.fingerprint() == before


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("stages/sketch.py", "return pca", "return [pca]"),
        ("codecs/pca.py", "+ 1", "+ 2"),
        ("codecs/low_bit.py", "return x", "return -x"),
        ("models/load.py", "nothing", "all"),
        ("files/io.py", "pass", "return 1"),
        ("codecs/__init__.py", "MODULES", "NAMES"),
    ],
    ids=["itself", "imported", "named as text", "imported lazily", "imported relatively", "parent package"],
)
def test_code_changes_the_stages_that_run_it(package, file, old, new):
    before = package.fingerprint()
    package.edit(file, old, new)
    assert package.fingerprint() != before


def test_code_leaves_other_stages_alone(package):
    before = package.fingerprint("capture")
    package.edit("codecs/pca.py", "+ 1", "+ 2")
    assert package.fingerprint("capture") == before


def test_a_template_counts_as_code_of_its_package(package):
    before = package.fingerprint("report")
    package.edit("report/page.html.jinja", "<html>", "<html lang='en'>")
    assert package.fingerprint("report") != before


def test_a_missing_stage_is_refused(package):
    with pytest.raises(ModuleNotFoundError, match=r"ghostkv\.stages\.absent"):
        package.fingerprint("absent")


def test_fingerprint_does_not_depend_on_the_process():
    code = (
        "from ghostkv.files.provenance import fingerprint; print(fingerprint('ghostkv.stages.sketch.layer'))"
    )
    seeds = [
        os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": str(provenance.PACKAGE.parent)} for seed in "12"
    ]
    found = {
        subprocess.check_output([sys.executable, "-c", code], env=env, text=True).strip() for env in seeds
    }
    assert found == {provenance.fingerprint("ghostkv.stages.sketch.layer")}


def test_nothing_is_imported_that_the_closure_lacks():
    """Each job is imported in a child of a process that has imported the libraries and nothing of the lab."""
    code = (
        "import json, os, sys, importlib\n"
        "import altair, numba, numpy, polars, pyarrow.parquet, pydantic, safetensors, scipy.stats, torch, transformers\n"
        "from transformers import AutoModelForCausalLM, DynamicCache, PreTrainedModel\n"
        "for job in sys.argv[1:]:\n"
        "    if os.fork() == 0:\n"
        "        importlib.import_module(job)\n"
        "        names = [name for name in sys.modules if name.partition('.')[0] == 'ghostkv']\n"
        "        os.write(1, (json.dumps([job, names]) + '\\n').encode())\n"
        "        os._exit(0)\n"
        "    os.wait()\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    said = subprocess.check_output([sys.executable, "-c", code, *JOBS], env=environment, text=True)
    imported = dict(map(json.loads, said.splitlines()))
    assert sorted(imported) == JOBS
    assert {job: sorted(set(names) - set(provenance.closure(job))) for job, names in imported.items()} == {
        job: [] for job in JOBS
    }


def _closure(job: str) -> set[str]:
    return set(provenance.closure(f"ghostkv.stages.{job}"))


def test_capture_does_not_depend_on_codecs_or_config_of_later_stages():
    names = _closure("capture.text")
    assert not {
        name for name in names if name.startswith(("ghostkv.codecs", "ghostkv.report", "ghostkv.elimination"))
    }
    assert "ghostkv.config.frontier" not in names


@pytest.mark.parametrize("job", ["sketch.layer", "frontier.layer", "frontier.gather", "capture.imported"])
def test_jobs_after_capture_do_not_depend_on_torch(job):
    assert not {name for name in _closure(job) if name.startswith(("ghostkv.models", "ghostkv.runtime"))}


@pytest.mark.parametrize("job", ["sketch.layer", "frontier.layer"])
def test_jobs_depend_on_every_codec_or_on_those_that_they_say_they_use(job):
    assert {f"ghostkv.codecs.{name}" for name in by_name.names()} <= _closure(job)
    used = set(provenance.closure(f"ghostkv.stages.{job}", by_name.modules(["transform_code"])))
    assert {"ghostkv.codecs.transform_code", "ghostkv.codecs.whitened"} <= used
    assert not used & {"ghostkv.codecs.pca", "ghostkv.codecs.learned", "ghostkv.codecs.fitting"} - _direct(
        job
    )


def _direct(job: str) -> set[str]:
    """What a job imports whatever it finds by name."""
    return set(provenance.closure(f"ghostkv.stages.{job}", ("ghostkv.codecs.base",)))


@pytest.mark.parametrize("job", ["peers.layer", "quality.text"])
def test_jobs_depend_on_every_selector_or_on_those_that_they_say_they_use(job):
    everything = {f"ghostkv.selectors.{name}" for name in selector_names()}
    assert everything <= _closure(job)
    used = set(provenance.closure(f"ghostkv.stages.{job}", ("ghostkv.selectors.quest",)))
    assert used & everything == {"ghostkv.selectors.quest"}


@pytest.mark.parametrize(("edited", "changes"), [("low_bit", True), ("pca", False), ("more", False)])
def test_of_a_room_whose_modules_are_found_by_name_those_that_are_used_count(package, edited, changes):
    package.edit("stages/capture.py", "import io", "import io\nROOM = 'ghostkv.codecs.'")
    prints = []
    for text in ("def fit(x):\n    return 1\n", "def fit(x):\n    return 2\n"):
        (package.folder / f"codecs/{edited}.py").write_text(text)
        fresh = package.fresh()
        job = "ghostkv.stages.capture"
        prints.append((fresh.fingerprint(job), fresh.fingerprint(job, "ghostkv.codecs.low_bit")))
    (all_before, used_before), (all_after, used_after) = prints
    assert all_before != all_after
    assert (used_before != used_after) == changes


def test_all_stages_together_read_each_module_once():
    provenance._read.cache_clear()
    provenance.closure.cache_clear()
    for job in JOBS:
        provenance.fingerprint(job)
    modules = len(list(provenance.PACKAGE.rglob("*.py")))
    read = provenance._read.cache_info()
    assert 0 < read.misses <= modules < read.hits + read.misses


def test_metadata_is_text_and_leaves_out_what_is_unknown():
    facts = provenance.metadata("abc", model="m", layers=30, text=None)
    assert facts == {
        "package_version": facts["package_version"],
        "fingerprint": "abc",
        "model": "m",
        "layers": "30",
    }
