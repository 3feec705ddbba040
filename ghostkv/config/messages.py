"""Turns a validation error into a message that says what to write instead."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo


def explain(error: ValidationError, root: type[BaseModel], where: str) -> str:
    """One paragraph per faulty key: key, value, what is accepted, what to write."""
    paragraphs: dict[tuple, str] = {}
    for fault in error.errors(include_url=False):
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
    if fault["type"] == "extra_forbidden":
        accepted = _names(owner)
        near = difflib.get_close_matches(str(keys[-1]), accepted, n=1, cutoff=0.5)
        section = _dotted(keys[:-1]) or "the top level"
        fix = f"  Did you mean `{near[0]}`? Write: {near[0]}: {value}" if near else "  Remove the line."
        return (
            f"{where}: {key} is not a key (value {value}). Accepted keys of {section}: "
            f"{', '.join(accepted)}.\n{fix}"
        )
    found = "missing" if fault["type"] == "missing" else value
    name = next((step for step in reversed(keys) if isinstance(step, str)), "")
    fix = f"  Write: {name}: {_example(field, fault)}" if name else ""
    return f"{where}: {key or 'the file'} is {found}. Accepted: {_accepted(field, fault)}.\n{fix}"


def _walk(root: type[BaseModel], loc: Iterable[Any]) -> tuple[tuple, type[BaseModel], FieldInfo | None]:
    """The config path of a fault, the model that owns its last key, and that field; no union branches."""
    keys: list[Any] = []
    owner, inner, field = root, root, None
    for step in loc:
        if isinstance(step, int):
            keys.append(step)
        elif inner is not None and (found := _field(inner, step)) is not None:
            owner, field = inner, found
            keys.append(step)
            inner = _model_in(found.annotation)
        elif inner is not None and step != inner.__name__:
            owner, field = inner, None
            keys.append(step)
    return tuple(keys), owner, field


def _field(model: type[BaseModel], name: str) -> FieldInfo | None:
    return next((field for key, field in model.model_fields.items() if name in (key, field.alias)), None)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _model_in(part))), None)


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
    if fault["type"] == "literal_error":
        options = [
            option
            for part in str(context["expected"]).replace(" or ", ", ").split(", ")
            if (option := part.strip("'"))
        ]
        near = difflib.get_close_matches(str(fault["input"]), options, n=1, cutoff=0.4)
        return near[0] if near else options[0]
    if field is not None and field.examples:
        return json.dumps(field.examples[0]).replace('"', "")
    if field is not None and not field.is_required():
        default = field.get_default(call_default_factory=True)
        plain = default.plain() if hasattr(default, "plain") else default
        if isinstance(plain, list):
            plain = [item.plain() if hasattr(item, "plain") else item for item in plain]
        return json.dumps(plain).replace('"', "")
    for bound in ("ge", "gt", "le", "lt"):
        if bound in context:
            return str(context[bound] + {"ge": 0, "gt": 1, "le": 0, "lt": -1}[bound])
    return "16" if field is not None and field.annotation is int else "1.0"
