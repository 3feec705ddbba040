"""Turns a validation error into a message that says what to write instead."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable
from datetime import date
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from ghostkv.config.base import plain_of
from ghostkv.config.options import IN_BYTES, write_bits
from ghostkv.config.words import flow


def explain(error: ValidationError, root: type[BaseModel], where: str) -> str:
    """One paragraph per faulty key: key, value, what is accepted, what to write."""
    paragraphs: dict[tuple, str] = {}
    told = {fault["loc"] for fault in error.errors(include_url=False)}
    for fault in error.errors(include_url=False):
        if any((*fault["loc"][:-1], old) in told for old in IN_BYTES if fault["loc"][-1:] == ("bits",)):
            continue  # it is missing because it stands there under its old name
        keys, owner, field = _walk(root, fault["loc"])
        paragraphs.setdefault(keys, _paragraph(where, keys, owner, field, fault))
    # A key that takes this or that reports once per branch: the branch that got furthest was meant.
    deepest = [
        keys for keys in paragraphs if not any(other[: len(keys)] == keys != other for other in paragraphs)
    ]
    return "\n".join(paragraphs[keys] for keys in deepest)


def _paragraph(
    where: str, keys: tuple, owner: type[BaseModel], field: FieldInfo | None, fault: dict[str, Any]
) -> str:
    key, value = _dotted(keys), _short(fault["input"])
    if fault["type"].startswith("union_tag"):
        return _which_branch(where, key, field, fault)
    if fault["type"] == "extra_forbidden":
        accepted = _names(owner)
        near = difflib.get_close_matches(str(keys[-1]), accepted, n=1, cutoff=0.5)
        section = _dotted(keys[:-1]) or "the top level"
        if keys[-1] in IN_BYTES and "bits" in accepted:
            return f"{where}: {key} is not a key (value {value}). {write_bits(keys[-1], fault['input'])}"
        fix = f"  Did you mean `{near[0]}`? Write: {near[0]}: {value}" if near else "  Remove the line."
        return (
            f"{where}: {key} is not a key (value {value}). Accepted keys of {section}: "
            f"{', '.join(accepted)}.\n{fix}"
        )
    found = "missing" if fault["type"] == "missing" else value
    name = next((step for step in reversed(keys) if isinstance(step, str)), "")
    fix = f"  Write: {name}: {_example(field, fault)}" if name else ""
    return f"{where}: {key or 'the file'} is {found}. Accepted: {_accepted(field, fault)}.\n{fix}"


def _which_branch(where: str, key: str, field: FieldInfo, fault: dict[str, Any]) -> str:
    """A mapping whose discriminator is missing, or names no branch."""
    by, kinds = fault["ctx"]["discriminator"].strip("'"), [_tag(one) for one in _models_in(field.annotation)]
    tag = fault["ctx"].get("tag")
    near = difflib.get_close_matches(str(tag), kinds, n=1, cutoff=0.4) or kinds
    return (
        f"{where}: {key}.{by} is {'missing' if tag is None else _short(tag)}. Accepted: {', '.join(kinds)}.\n"
        f"  Write: {by}: {near[0]}"
    )


def _walk(root: type[BaseModel], loc: Iterable[Any]) -> tuple[tuple, type[BaseModel], FieldInfo | None]:
    """The config path of a fault, the model that owns its last key, and that field; no union branches."""
    keys: list[Any] = []
    owner, field = root, None
    branches = [root]
    for step in loc:
        if isinstance(step, int):
            keys.append(step)
        elif len(branches) > 1 and (named := [one for one in branches if step in (one.__name__, _tag(one))]):
            branches, owner, field = named, named[0], None
        elif branches and (found := _field(branches[0], step)) is not None:
            owner, field = branches[0], found
            keys.append(step)
            branches = _models_in(found.annotation)
        elif branches and step != branches[0].__name__:
            owner, field = branches[0], None
            keys.append(step)
    return tuple(keys), owner, field


def _tag(model: type[BaseModel]) -> str | None:
    """What the discriminator of a union says for a branch: the one value of its one fixed field."""
    fixed = (
        get_args(field.annotation)
        for field in model.model_fields.values()
        if get_origin(field.annotation) is Literal
    )
    return next((values[0] for values in fixed if len(values) == 1), None)


def _field(model: type[BaseModel], name: str) -> FieldInfo | None:
    return next((field for key, field in model.model_fields.items() if name in (key, field.alias)), None)


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for part in get_args(annotation) for found in _models_in(part)]


def _names(model: type[BaseModel]) -> list[str]:
    return [field.alias or key for key, field in model.model_fields.items()]


def _dotted(keys: tuple) -> str:
    text = ""
    for key in keys:
        text += f"[{key}]" if isinstance(key, int) else f"{'.' if text else ''}{key}"
    return text


def _short(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


def _accepted(field: FieldInfo | None, fault: dict[str, Any]) -> str:
    message = fault["msg"][0].lower() + fault["msg"][1:]
    message = message.removeprefix("input should be ").removeprefix("field required")
    about = field.description.rstrip(".") if field is not None and field.description else ""
    return f"{message} ({about})" if message and about else message or about or "a value"


def _example(field: FieldInfo | None, fault: dict[str, Any]) -> str:
    context = fault.get("ctx", {})
    if "write" in context:
        return flow(context["write"])
    if fault["type"] == "string_type" and isinstance(fault["input"], bool | int | float | date):
        told = {True: "yes", False: "no"}[given] if isinstance(given := fault["input"], bool) else given
        return f'"{told}"   (as it was, in quotes: without, YAML reads another kind of value)'
    if fault["type"] == "literal_error":
        options = [
            option
            for part in str(context["expected"]).replace(" or ", ", ").split(", ")
            if (option := part.strip("'"))
        ]
        near = difflib.get_close_matches(str(fault["input"]), options, n=1, cutoff=0.4)
        return near[0] if near else options[0]
    if field is not None and field.examples:
        return flow(field.examples[0])
    if field is not None and not field.is_required():
        return flow(plain_of(field.get_default(call_default_factory=True)))
    for bound in ("ge", "gt", "le", "lt"):
        if bound in context:
            return str(context[bound] + {"ge": 0, "gt": 1, "le": 0, "lt": -1}[bound])
    return "16" if field is not None and field.annotation is int else "1.0"
