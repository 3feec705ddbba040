"""Configs that the docs show are configs that the lab takes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from ghostkv.config.experiment import Config, load_config

ROOT = Path(__file__).parents[1]
_BLOCK = re.compile(r"(?:^    .*\n)+|^```ya?ml\n(?:.*\n)*?```$", re.MULTILINE)
_NAMED = re.compile(r"\s*# \S+\.yaml\b")


def snippets():
    """Blocks that start with the name of a YAML file, and those that are a mapping with a section of the config."""
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        for number, found in enumerate(_BLOCK.findall(path.read_text(encoding="utf-8"))):
            block = re.sub(r"^```.*$", "", found, flags=re.MULTILINE)
            try:
                raw = yaml.safe_load(block)
            except yaml.YAMLError:
                raw = None
            sections = isinstance(raw, dict) and set(raw) & {*Config.model_fields}
            if sections or _NAMED.match(block):
                yield pytest.param(block, id=f"{path.stem}-{number}")


def test_snippets_are_found():
    assert {"extending", "quality", "retrieval"} <= {found.id.split("-")[0] for found in snippets()}


@pytest.mark.parametrize("block", list(snippets()))
def test_a_config_in_the_docs_loads(block):
    load_config(yaml.safe_load(block))
