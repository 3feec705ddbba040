"""Entries that name a selector and its options, wherever they stand: checked when the config is read."""

from __future__ import annotations

import difflib
import json
from collections.abc import Collection, Mapping
from functools import cache
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from ghostkv.config import options
from ghostkv.config.options import PerKey
from ghostkv.files.errors import ConfigError
from ghostkv.files.methods import methods


def selector_names() -> list[str]:
    """Selectors that exist: one file each in ghostkv/selectors."""
    return list(methods("selectors", "Selector"))


def check_selector(entry: Mapping[str, Any], where: str) -> None:
    """Refuse, by a `ConfigError`, an entry that names no selector, or gives it an option or a value that it lacks.

    Messages name the entry by `where`, its key: ``peers.selectors``.
    """
    name = entry.get("name") if isinstance(entry, Mapping) else entry
    if not isinstance(entry, Mapping) or name not in selector_names():
        wrong = "" if isinstance(entry, Mapping) else ", not a mapping"
        raise ConfigError(
            f"config: {where} names {name!r}{wrong}. Accepted: a mapping with a name of {', '.join(selector_names())}.\n"
            f"  Write: {{name: {_near(name, selector_names()) or 'quest'}}}   (or add ghostkv/selectors/{name}.py)"
        )
    given, known = {key: value for key, value in entry.items() if key != "name"}, _model(name)
    for key in given:
        if key not in known.model_fields:
            near = _near(key, known.model_fields)
            fix = f"Did you mean `{near}`? Write: {near}: {given[key]}" if near else "Remove it."
            if key in options.IN_BYTES and "bits" in known.model_fields:
                fix = options.write_bits(key, given[key])
            raise ConfigError(
                f"config: {where} has {name} with {key}: {given[key]}, which it does not have. "
                f"Accepted: {', '.join(known.model_fields) or 'none'}.\n  {fix}"
            )
    try:
        # As JSON a list stands for a tuple, and nothing else for anything else.
        known.model_validate_json(json.dumps(given, default=str), strict=True)
    except ValidationError as error:
        raise ConfigError(f"config: {where} ({name}): {_fault(error, known)}") from None


def check_width(entry: Mapping[str, Any], where: str, head_dim: int) -> None:
    """Refuse, by a `ConfigError`, an option of a selector that keys of this width do not have: 100 of 64 components.

    `entry` has passed `check_selector`.
    """
    for option, field in _model(entry["name"]).model_fields.items():
        value = entry.get(option, field.default)
        for rule in (one for one in field.metadata if isinstance(one, PerKey)):
            if value > head_dim or (rule.divides and head_dim % value):
                fits = [n for n in range(min(value, head_dim), 0, -1) if not (rule.divides and head_dim % n)]
                raise ConfigError(
                    f"config: {where} has {entry['name']} with {option}: {value}, but keys have head_dim: {head_dim}. "
                    f"Accepted: {'a divisor of it' if rule.divides else f'at most {head_dim}'}.\n"
                    f"  Write: {option}: {fits[0]}"
                )


def _fault(error: ValidationError, known: type[BaseModel]) -> str:
    """Its first fault. Not by `messages.explain`: selectors import this, and a message there would rerun them."""
    fault = error.errors(include_url=False)[0]
    (option, *place), wanted = fault["loc"], fault["msg"].removeprefix("Input should be ")
    found = "missing" if fault["type"] == "missing" else json.dumps(fault["input"])
    field = known.model_fields[option]
    example = "..." if field.is_required() else json.dumps(field.default)
    return (
        f"{option}{''.join(f'[{step}]' for step in place)} is {found}. "
        f"Accepted: {wanted[0].lower()}{wanted[1:]}.\n  Write: {option}: {example}"
    )


def selector_options(name: str) -> dict[str, Any]:
    """A selector's options at their defaults, as a config writes them."""
    return _model(name)().model_dump(mode="json")


@cache
def _model(name: str) -> type[BaseModel]:
    """The options of a selector as its source annotates them."""
    fields = {}
    for option, (annotation, default) in methods("selectors", "Selector")[name].options.items():
        try:
            fields[option] = tuple(
                eval(text, vars(options).copy()) for text in (annotation, default or "...")
            )
        except NameError as error:
            raise ConfigError(
                f"ghostkv/selectors/{name}.py: {option} is annotated with {annotation}, and {error}. "
                f"Accepted: Python's own types and those of ghostkv/config/options.py, {', '.join(options.__all__)}.\n"
                f"  Write: {option}: int"
            ) from None
    return create_model(name, __config__=ConfigDict(allow_inf_nan=False), **fields)


def _near(word: Any, known: Collection[str]) -> str | None:
    return next(iter(difflib.get_close_matches(str(word), known, n=1, cutoff=0.6)), None)
