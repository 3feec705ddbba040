"""Methods are a file each: a codec in ghostkv/codecs, a selector in ghostkv/selectors. Nothing lists them.

What a method is called, which options it has and how it is drawn is read from its source here, because importing it
would cost every use of the config a second. `load` imports it.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).parents[1]


@dataclass(frozen=True)
class Method:
    """One method as its source describes it."""

    name: str  # its file, without .py
    # Field -> its annotation and its default, as text; the default is empty where there is none
    options: dict[str, tuple[str, str]]
    constants: dict[str, Any]  # what the class sets beside its fields -> its value, where that is a literal


@cache
def methods(room: str, base: str) -> Mapping[str, Method]:
    """The methods of a room of the package, by name.

    Parameters
    ----------
    room : str
        Such as "selectors".
    base : str
        The class that all of them derive from, directly or through each other. Other files are no methods, and no
        class whose `in_config` is False.
    """
    trees = {
        path.stem: ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
        for path in sorted((PACKAGE / room).glob("*.py"))
        if path.stem != "base"
    }
    bases, found, before = {base}, {}, -1
    while len(found) > before:
        before = len(found)
        for name, tree in trees.items():
            for node in tree.body:
                if isinstance(node, ast.ClassDef) and bases & {ast.unparse(each) for each in node.bases}:
                    bases.add(node.name)
                    found.setdefault(name, node)
    described = [_method(name, found[name]) for name in sorted(found)]
    return {method.name: method for method in described if method.constants.get("in_config", True)}


def load(room: str, name: str, base: type) -> type:
    """The class of a method: the first that its file defines.

    `room` is a text such as "ghostkv.codecs.", dot included: by it `ghostkv.files.provenance` knows that whoever calls
    this depends on every method of the room, unless a job says which it uses.
    """
    module = import_module(f"{room}{name}")
    return next(
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, base) and value.__module__ == module.__name__
    )


def _method(name: str, node: ast.ClassDef) -> Method:
    options, constants = {}, {}
    for line in node.body:
        match line:
            case ast.AnnAssign(ast.Name(key), annotation, value) if "ClassVar" not in ast.unparse(annotation):
                options[key] = ast.unparse(annotation), ast.unparse(value) if value else ""
            case ast.Assign([ast.Name(key)], ast.Constant(value)) | ast.AnnAssign(
                ast.Name(key), _, ast.Constant(value)
            ):
                constants[key] = value
    return Method(name, options, constants)
