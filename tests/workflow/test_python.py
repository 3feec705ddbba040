"""A policy that is fitted in Python is the workflow's for the same texts, number for number."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml

import ghostkv
from ghostkv.config.experiment import load_config
from ghostkv.config.policies import CalibratedPolicy, CertifiedMassPolicy, GhostPolicy
from ghostkv.config.resolved import resolve
from ghostkv.models.load import load_model
from ghostkv.models.tokenizer import load_tokenizer
from ghostkv.runtime.load_policy import load_policy
from ghostkv.runtime.sources import Sources

TINY = yaml.safe_load((Path(__file__).parents[1] / "config/tiny.yaml").read_text())
CONFIG = {name: TINY[name] for name in ("capture", "sketch", "frontier", "certificates") if name in TINY}


@pytest.mark.parametrize(
    ("asked", "policy"),
    [
        ({"bytes_ratio": 0.5}, GhostPolicy(label="a", ratio=0.5, codec="transform_code")),
        ({"target_fer": 0.05}, CalibratedPolicy(label="a", target_metric="fer", target=0.05)),
        ({"certificate": 0.05}, CertifiedMassPolicy(label="a", delta=0.05)),
    ],
    ids=["bytes_ratio", "target_fer", "certificate"],
)
def test_the_numbers_are_those_of_the_workflow(project, asked, policy):
    results, folder = project.folder / "results", project.folder / "resources/models/tiny-llama"
    rows = pl.read_parquet(results / "texts/texts.parquet").rows(named=True)
    texts = {
        role: {row["text"]: row["content"] for row in rows if row["role"] == role}
        for role in ("codec", "threshold")
    }
    ours = ghostkv.fit(load_model(folder), load_tokenizer(folder), texts, config=CONFIG, **asked)
    config = load_config(CONFIG | {"texts": TINY["texts"]})
    theirs = load_policy(resolve(policy, config), Sources.of(results, config.frontier.headline_start))
    assert ours.deciders.keys() == theirs.deciders.keys()
    assert (ours.sinks, ours.hot, ours.certificate) == (theirs.sinks, theirs.hot, theirs.certificate)
    for layer, decider in theirs.deciders.items():
        for own, other in zip(numbers(ours.deciders[layer]), numbers(decider), strict=True):
            assert np.array_equal(own, other)


def numbers(decider) -> list[np.ndarray]:
    if decider.name == "ghost":
        return [*decider.frames.writing, *decider.frames.reading, decider.theta]
    return [
        array
        for codec in decider.codecs
        for array in (*codec.arrays().values(), codec.decoder_, codec.tree_.centroids)
    ]
