"""Selectors: which cold keys to read. One module each; the config names the module.

To add one, write `ghostkv/selectors/<name>.py` with one dataclass derived from `Selector`, and a line under
`peers.selectors` in the config. Nothing else lists selectors.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ghostkv.config.selectors import check_selector
from ghostkv.files.methods import load
from ghostkv.selectors.base import Selector

__all__ = ["Selector", "make"]


def make(entry: Mapping[str, Any]) -> tuple[str, Selector]:
    """A selector from its config entry, with its name: `name` is its module, all other keys are its hyperparameters.

    Raises
    ------
    ConfigError
        No module has that name, or the selector has no such hyperparameter or refuses its value.
    """
    check_selector(entry, "peers.selectors")
    options = {key: tuple(value) if isinstance(value, list) else value for key, value in entry.items()}
    name = options.pop("name")
    return name, load("ghostkv.selectors.", name, Selector)(**options)
