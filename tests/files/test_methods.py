"""Methods are found by their files, and described by their source as their classes would describe themselves."""

from __future__ import annotations

import ast
from dataclasses import fields
from pathlib import Path

import pytest

from ghostkv.codecs import Codec
from ghostkv.files.methods import PACKAGE, load, methods
from ghostkv.report.theme import BLUE, GREEN, ORANGE, PURPLE, VERMILION, own_colours
from ghostkv.selectors import Selector

ROOMS = {"codecs": Codec, "selectors": Selector}


def test_codecs_that_need_more_than_bytes_and_a_seed_are_not_for_the_config():
    assert list(methods("codecs", "Codec")) == [
        "field_code", "gaussian", "pca", "random_orthogonal", "transform_code", "turned_code",
            "vector_code", "whitened"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("room", "name"), [(room, name) for room in ROOMS for name in methods(room, ROOMS[room].__name__)]
)
def test_a_source_says_what_its_class_says(room, name):
    base = ROOMS[room]
    method, cls = methods(room, base.__name__)[name], load(f"ghostkv.{room}.", name, base)
    # What a class that no config names gives to those that derive from it is fitted, and no option.
    shared = [
        parent for parent in cls.__mro__[1:] if parent is base or not vars(parent).get("in_config", True)
    ]
    given = {field.name for parent in shared for field in fields(parent)}
    own = [field for field in fields(cls) if field.name not in given]
    assert list(method.options) == [field.name for field in own]
    assert [ast.literal_eval(default) for _, default in method.options.values()] == [
        field.default for field in own
    ]
    assert method.constants == {key: cls.__dict__[key] for key in method.constants}


def test_every_codec_is_named_as_its_file():
    assert [load("ghostkv.codecs.", name, Codec).name for name in methods("codecs", "Codec")] == [
        *methods("codecs", "Codec")
    ]


def test_the_colours_of_the_codecs():
    assert own_colours() == {
        "field_code": "#7570b3",
        "gaussian": VERMILION,
        "pca": ORANGE,
        "random_orthogonal": PURPLE,
        "transform_code": BLUE,
        "turned_code": "#66a61e",
        "vector_code": "#a6761d",
        "whitened": GREEN,
        "exact": "#8a949e",
    }


def test_no_code_asks_for_a_codec_by_a_name_that_its_fingerprint_would_miss():
    """`TransformCode.name` beside an import is seen; a bare text is not."""
    names = set(methods("codecs", "Codec"))
    for path in PACKAGE.rglob("*.py"):
        if path.relative_to(PACKAGE).parts[0] != "config":
            calls = [
                node
                for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
                if isinstance(node, ast.Call)
            ]
            texts = {
                getattr(value, "value", None)
                for call in calls
                for value in call.args
                if isinstance(value, ast.Constant)
            }
            assert not texts & names, Path(path).name
