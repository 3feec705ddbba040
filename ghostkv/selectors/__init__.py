"""Selectors: which cold keys to read. One module each; the config names the module.

To add one, write `ghostkv/selectors/<name>.py` with one dataclass derived from `Selector`, and a line under
`peers.selectors` in the config. Nothing else lists selectors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from importlib import import_module
from typing import Any

from ghostkv.files.errors import ConfigError
from ghostkv.selectors.base import Selector

__all__ = ["Selector", "make"]


def make(entry: Mapping[str, Any]) -> tuple[str, Selector]:
    """A selector from its config entry: `name` is its module, all other keys are its hyperparameters.

    Returns
    -------
    name : str
    selector : Selector

    Raises
    ------
    ConfigError
        No module has that name, or the selector has no such hyperparameter or refuses its value.
    """
    options = {key: tuple(value) if isinstance(value, list) else value for key, value in entry.items()}
    name = options.pop("name")
    try:
        module = import_module(f"{__name__}.{name}")
    except ModuleNotFoundError:
        raise ConfigError(
            f"peers.selectors: no selector {name!r}; write ghostkv/selectors/{name}.py"
        ) from None
    kind = next(
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Selector) and value.__module__ == module.__name__
    )
    known = [field.name for field in fields(kind)]
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise ConfigError(
            f"peers.selectors: {name} has no hyperparameter {unknown[0]!r}; it has {', '.join(known) or 'none'}"
        )
    try:
        return name, kind(**options)
    except ValueError as error:
        raise ConfigError(f"peers.selectors: {name}: {error}") from None
