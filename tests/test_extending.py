"""The codec and the selector of docs/extending.md are what the page says, and what it shows of stages and chapters is the code."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/extending.md").read_text(encoding="utf-8")


def blocks(heading: str) -> tuple[str, str, str]:
    """Of a section of the page: the file of its Python, that Python, and its lines of config."""
    section = re.search(rf"^## {heading}\n(.*?)(?=^## )", PAGE, re.MULTILINE | re.DOTALL)[1]
    (code,) = re.findall(r"^```python\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    (config,) = re.findall(r"^```yaml mine.yaml\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    return re.match(r"# (\S+)\n", code)[1], code, config


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """A copy of the package, to which both are added."""
    folder = tmp_path_factory.mktemp("extended")
    shutil.copytree(ROOT / "ghostkv", folder / "ghostkv")
    for heading in ("Add a codec", "Add a selector"):
        file, code, config = blocks(heading)
        assert not (ROOT / file).exists()
        (folder / file).write_text(code, encoding="utf-8")
        (folder / Path(file).with_suffix(".yaml").name).write_text(config, encoding="utf-8")
    return folder


def told(package: Path, code: str) -> dict:
    """What a process says that runs `code` with the extended package."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(package), str(ROOT)])}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=package,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


CODEC = """
import json
import numpy as np
from ghostkv.codecs import by_name
from ghostkv.config.experiment import read_config
from ghostkv.report.theme import own_colours
from tests.elimination.test_bounds import fitted, worst_excess
config = read_config("hadamard.yaml")
rng = np.random.default_rng(1)
excess = [worst_excess(fitted("hadamard")[0], rng.standard_t(1.5, (200, 16)) * size, rng.normal(size=(30, 16))) for size in (0.1, 1, 30)]
codec = by_name.make("hadamard", 4).load(fitted("hadamard")[0].arrays())
print(json.dumps({
    "home": by_name.__file__,
    "names": by_name.names(),
    "headline": config.frontier.headline.codec,
    "colour": own_colours()["hadamard"],
    "colours": len(set(own_colours().values())),
    "excess": float(max(excess)),
    "record_bytes": codec.record_bytes,
}))
"""


def test_the_codec_fits_holds_its_bound_and_is_known_to_config_and_charts(package):
    said = told(package, CODEC)
    assert said["home"].startswith(str(package))
    assert "hadamard" in said["names"]
    assert said["headline"] == "hadamard"
    assert said["colour"] == "#332288"
    assert said["colours"] == len(said["names"]) + 1  # one each, and grey for exact scores
    assert said["excess"] <= 0
    assert said["record_bytes"] == 5


SELECTOR = """
import json
import numpy as np
from ghostkv.config.experiment import load_config, read_config
from ghostkv.config.selectors import selector_names
from ghostkv.files.errors import ConfigError
from ghostkv.selectors import make
from tests.selectors.conftest import ALL, make_bench
entry = read_config("sign_bits.yaml").peers.selectors[1].plain()
bench = make_bench()
selection = bench.select(make(entry | {"components": 16})[1])
measured = bench.measure(selection)
try:
    load_config({"peers": {"selectors": [entry | {"components": 0}]}})
except ConfigError as error:
    refused = str(error)
print(json.dumps({
    "names": selector_names(),
    "tested": [one["name"] for one in ALL],
    "variant": make(entry)[1].variant,
    "feasible": selection.feasible.tolist(),
    "spent": measured["bytes_ratio_gqa"].mean(axis=2).max(axis=1).tolist(),
    "index": float(selection.index_bytes[3, 0] / bench.scene.visible.cold[0]),
    "dropped": measured["dropped_mass"][3].mean(),
    "cold_alone": bool((selection.reads[~bench.cold()] == 0).all()),
    "ratios": bench.budget.ratios,
    "refused": refused,
}))
"""


def test_the_selector_runs_within_its_bytes_and_is_known_to_config_and_tests(package):
    said = told(package, SELECTOR)
    assert "sign_bits" in said["names"]
    assert "sign_bits" in said["tested"]
    assert said["variant"] == "components=32"
    assert any(said["feasible"])
    for ratio, spent, feasible in zip(said["ratios"], said["spent"], said["feasible"], strict=True):
        assert not feasible or 0 < spent <= ratio + 1e-9
    assert said["index"] == 2
    assert said["dropped"] < 0.3
    assert said["cold_alone"]
    assert "(sign_bits): components is 0. Accepted: greater than or equal to 1" in said["refused"]


def excerpts():
    """What the page shows of files that are there: each path, and its lines without indentation."""
    for found in re.findall(r"^ *```python\n *# (\S+)\n(.*?)^ *```$", PAGE, re.MULTILINE | re.DOTALL):
        if (ROOT / found[0]).is_file():
            yield (
                found[0],
                [line.strip() for line in found[1].splitlines() if line.strip() not in ("", "...")],
            )


def test_what_the_page_shows_of_the_code_stands_there_in_that_order():
    shown = list(excerpts())
    assert len(shown) == 5
    for file, lines in shown:
        code = iter(line.strip() for line in (ROOT / file).read_text(encoding="utf-8").splitlines())
        assert [line for line in lines if line not in code] == [], file
