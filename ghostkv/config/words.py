"""Words of the command line: `snakemake --config` hands every value over as text, and only those are read again here.

What a file says is what YAML made of it. A quoted word stays text there, whatever it looks like.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import yaml

from ghostkv.files.errors import ConfigError


class Word(str):
    """A text of the command line, of which the key that it stands for decides what it means."""

    __slots__ = ()


def marked(raw: Any, typed: Any) -> Any:
    """A raw config in which every text that `typed`, the part from the command line, put there is a `Word`."""
    if isinstance(raw, Mapping) and isinstance(typed, Mapping):
        return {key: marked(item, typed[key]) if key in typed else item for key, item in raw.items()}
    return _words(raw)


def read_words(value: Any, annotation: Any = None) -> Any:
    """What words mean to a key of this annotation: text where it takes text, null where it takes null, else what YAML
    makes of them. Lists are read word by word, and anything else is returned as it is."""
    if isinstance(value, list):
        return [read_words(item, annotation) for item in value]
    if not isinstance(value, Word):
        return value
    kinds, meant = _kinds(annotation), _as_yaml(value)
    if meant is None and type(None) in kinds:
        return None
    return str(value) if str in kinds or value in kinds else meant


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The mapping that a YAML file holds; a ConfigError where it holds none. Tags build no objects."""
    try:
        raw = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: not a readable YAML file ({error}).") from error
    if not isinstance(raw, dict):
        raise ConfigError(
            f"{path}: not a readable YAML file (a {type(raw).__name__}). Accepted: keys and values."
        )
    return raw


def flow(value: Any) -> str:
    """A value as YAML on one line, in quotes where it would mean something else without."""
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000, sort_keys=False, allow_unicode=True)
    return text.removesuffix("...\n").strip()


def _kinds(annotation: Any) -> set[Any]:
    """Types and fixed values that an annotation is made of."""
    if get_origin(annotation) is Annotated:
        return _kinds(get_args(annotation)[0])
    if get_origin(annotation) is Literal:
        return set(get_args(annotation))
    parts = get_args(annotation)
    return set().union(*map(_kinds, parts)) if parts else {annotation}


def _as_yaml(word: Word) -> Any:
    try:
        parsed = yaml.safe_load(word)
    except yaml.YAMLError:
        return str(word)
    # Only what a text cannot mean: dates, for one, stay text.
    return parsed if parsed is None or isinstance(parsed, bool | int | float) else str(word)


def _words(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _words(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_words(item) for item in value]
    return Word(value) if isinstance(value, str) else value
