"""The profile for Slurm, as far as it shows without one; `make cluster` has one: tests/cluster/run."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
import yaml

from tests.workflow.conftest import copy_project
from tests.workflow.damages import planned

TARGETS = ("results", "demo")
CORES = 7  # a number that no rule states


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """A copy of the project that has run nothing."""
    base = tmp_path_factory.mktemp("cluster")
    return copy_project(base / "copy", base / "run")


@pytest.fixture(scope="module")
def profile(copy):
    return yaml.safe_load((copy.root / "workflow/profiles/slurm/profile.yaml").read_text())


@pytest.fixture(scope="module")
def sent(copy, profile, tmp_path_factory):
    """What a dry run of everything says, with all of the profile that Snakemake knows without the plugin.

    It fails where a group needs what is made elsewhere of what it makes itself.
    """
    known = {key: value for key, value in profile.items() if key != "executor" and "slurm-" not in key}
    folder = tmp_path_factory.mktemp("profile")
    (folder / "profile.yaml").write_text(yaml.safe_dump(known))
    asked = [
        "--workflow-profile",
        str(folder),
        "--cores",
        str(CORES),
        "--dry-run",
        "--forceall",
        "--",
        *TARGETS,
    ]
    return copy.snakemake(*asked).stdout


@pytest.fixture(scope="module")
def jobs(copy):
    return planned(copy.root / "Snakefile", copy.folder, *TARGETS)


def described(said):
    """The rule of each job of a dry run, with the lines about it."""
    places = [found.start() for found in re.finditer(r"^ *rule \w+:$", said, re.MULTILINE)] + [len(said)]
    for begin, end in pairwise(places):
        text = said[begin:end]
        yield re.match(r" *rule (\w+):", text)[1], text


def test_the_profile_names_only_rules_and_groups_that_exist(copy, profile):
    listed = copy.snakemake("--list-rules", "--quiet", "--").stdout.split()
    named = [*profile["groups"], *profile["set-resources"], *profile.get("set-threads", ())]
    assert set(named) - set(listed) == set()
    assert set(profile["group-components"]) - set(profile["groups"].values()) == set()


def test_the_network_and_the_targets_are_needed_only_where_snakemake_runs(jobs, profile):
    local = {job["rule"] for job in jobs if job["local"]}
    assert local == {"fetch_model", "assemble_texts", "retrieval_plan", "report", "demo_texts", "demo_report"}
    assert local & set(profile["groups"]) == set()


def test_every_job_that_works_layer_by_layer_shares_a_submission(jobs, profile):
    by_layer = {job["rule"] for job in jobs if any("layer_" in path for path in job["outputs"].values())}
    assert by_layer >= {"sketch_layer", "sweep_layer", "peers_layer", "decode_layer"}
    assert by_layer - set(profile["groups"]) == set()


def test_what_takes_all_cores_has_a_machine_of_its_own(sent):
    timed = {rule for rule, text in described(sent) if f"threads: {CORES}\n" in text}
    assert timed == {rule for rule, text in described(sent) if "slurm_extra=--exclusive" in text}
    assert timed == {
        "measure_memory",
        "store_speed",
        "sweep_speed",
        "time_layers",
        "time_overlap",
        "time_steps",
    }
