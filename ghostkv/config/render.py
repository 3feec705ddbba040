"""Writes the commented default config.yaml from the models."""

from __future__ import annotations

import textwrap
from typing import Any

from pydantic import BaseModel

from ghostkv.config.words import flow

_HEADER = """\
# The experiment. Every key is optional and shows its default.
# Generated from ghostkv/config/ by `python -m ghostkv.config --write`. Change values here, or put those that
# differ into a file of your own: snakemake --configfile mine.yaml
"""
_WIDTH = 110


def default_yaml(config: BaseModel) -> str:
    """`config` as YAML with every field's description above it."""
    sections = [_section(name, getattr(config, name), field.description) for name, field in _fields(config)]
    return _HEADER + "".join("\n" + section for section in sections)


def _section(name: str, section: BaseModel, description: str) -> str:
    return "\n".join([f"# {description}", f"{name}:", *_lines(section, "  ")]) + "\n"


def _lines(section: BaseModel, indent: str) -> list[str]:
    lines: list[str] = []
    for name, field in _fields(section):
        value, key = getattr(section, name), field.alias or name
        lines += textwrap.wrap(
            field.description, _WIDTH, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# "
        )
        if isinstance(value, BaseModel) and any(
            isinstance(getattr(value, part), BaseModel) for part in _parts(value)
        ):
            lines += [f"{indent}{key}:", *_lines(value, indent + "  ")]
        elif isinstance(value, list) and value and isinstance(value[0], BaseModel):
            lines += [f"{indent}{key}:", *(f"{indent}  - {flow(item.plain())}" for item in value)]
        else:
            lines.append(f"{indent}{key}: {flow(value.plain() if isinstance(value, BaseModel) else value)}")
    return lines


def _fields(section: BaseModel) -> list[tuple[str, Any]]:
    return list(type(section).model_fields.items())


def _parts(section: BaseModel) -> list[str]:
    return list(type(section).model_fields)
