"""Entries of `quality.policies` and `retrieval.policies`: checked before anything runs, by name and by option."""

from __future__ import annotations

import ast
import difflib
from collections.abc import Callable, Collection, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, get_args

from ghostkv.config.selectors import selector_names
from ghostkv.config.sketch import CodecName
from ghostkv.files.errors import ConfigError

# Beside ghostkv.runtime.load_policy, which a config need not import; a test compares them.
COMMON = ("label", "dense_layers", "sinks", "hot", "prefill", "shared")
OPTIONS = {
    "full": (),
    "identity": ("codec", "code_bytes"),
    "ghost": ("ratio", "theta", "codec", "code_bytes", "compensate"),
    "calibrated": ("target_metric", "target", "codec", "code_bytes", "compensate"),
    "certified_mass": ("delta", "compensate", "levels", "shares"),
    "oracle_mass": ("delta",),
    "selector": ("selector", "ratio"),
}


def _real(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value == value


def _share(value: Any) -> bool:
    return _real(value) and 0 < value <= 1


def _whole(least: int) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and value >= least


def _list_of(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list | tuple) and all(map(fits, value))


def _flag(value: Any) -> bool:
    return isinstance(value, bool)


# Option -> what it accepts, in code and in words, and a line to write.
_VALUES: dict[str, tuple[Callable[[Any], bool], str, str]] = {
    "ratio": (_share, "a share of the full bytes, above 0 and at most 1", "0.3"),
    "theta": (_real, "a number", "0.0"),
    "delta": (_share, "a share of the softmax mass, above 0 and at most 1", "0.01"),
    "target": (_share, "a number above 0 and at most 1, of frontier.targets", "0.01"),
    "target_metric": (lambda value: isinstance(value, str), "a name of frontier.targets", "dropped_mass"),
    "codec": (
        lambda value: value in get_args(CodecName),
        f"one of {', '.join(get_args(CodecName))}, of sketch.codecs",
        "transform_code",
    ),
    "code_bytes": (_whole(1), "a whole number of bytes, of sketch.codecs", "8"),
    "compensate": (_flag, "true or false", "true"),
    "shared": (_flag, "true or false", "true"),
    "prefill": (lambda value: value in ("dense", "sparse"), "dense or sparse", "dense"),
    "sinks": (_whole(0), "a whole number of tokens", "4"),
    "hot": (_whole(1), "a whole number of tokens, at least 1, as a query always reads its own key", "64"),
    "dense_layers": (_list_of(_whole(0)), "a list of layers", "[0, 1]"),
    "levels": (
        _list_of(lambda value: _real(value) and value > 0),
        "a list of bits a coordinate",
        "[1, 1, 1, 1, 2, 2]",
    ),
    "shares": (_list_of(_share), "a list of shares", "[0.03, 0.08, 0.16, 0.32, 0.6, 0.97]"),
}


def check_policy(
    entry: Mapping[str, Any], where: str, own: Collection[str] = (), without: Collection[str] = ()
) -> None:
    """Refuse a policy that `ghostkv.runtime.load_policy` would refuse, or fail on, after hours.

    Parameters
    ----------
    entry : mapping
        A policy, as the config has it; its kind is known already.
    where : str
        The key, for messages: ``quality.policies``.
    own : collection of str
        Keys that the stage reads itself.
    without : collection of str
        Options that the stage sets for all policies.

    Raises
    ------
    ConfigError
        An option that the kind does not have, a value that it does not take, or one that it lacks.
    """
    kind, place = entry["policy"], f"config: {where} {entry.get('label', '')}".rstrip()
    options = [key for key in (*OPTIONS[kind], *COMMON) if key not in without]
    accepted = ["policy", *options, *own]
    for key in entry:
        if key not in accepted:
            raise ConfigError(
                f"{place} (policy: {kind}) has {key}: {entry[key]}, which is no option. {_fix(key, accepted, entry[key])}"
            )
    for key in options:
        if key in _VALUES and key in entry and not _VALUES[key][0](entry[key]):
            _, meaning, example = _VALUES[key]
            raise ConfigError(
                f"{place} has {key}: {entry[key]}. Accepted: {meaning}.\n  Write: {key}: {example}"
            )
    if kind == "ghost" and ("ratio" in entry) == ("theta" in entry):
        found = "both ratio and theta" if "ratio" in entry else "neither ratio nor theta"
        raise ConfigError(
            f"{place} has {found}. Accepted: one of them, the bytes or the threshold.\n  Write: ratio: 0.3"
        )
    if kind == "selector":
        _check_selector(entry, place)


def _check_selector(entry: Mapping[str, Any], place: str) -> None:
    chosen = entry.get("selector")
    name = chosen.get("name") if isinstance(chosen, Mapping) else chosen
    if not isinstance(chosen, Mapping) or name not in selector_names():
        near = _near(str(name), selector_names()) or "quest"
        raise ConfigError(
            f"{place} seats the selector {name!r}{'' if isinstance(chosen, Mapping) else ', not a mapping'}. Accepted: a "
            f"mapping with a name of {', '.join(selector_names())}.\n  Write: selector: {{name: {near}}}, ratio: 0.2"
        )
    known = selector_options(name)
    for key in chosen:
        if key not in ("name", *known):
            raise ConfigError(
                f"{place} seats {name} with {key}: {chosen[key]}, which it does not have. "
                + _fix(key, known, chosen[key])
            )
    if "ratio" not in entry:
        raise ConfigError(
            f"{place} has no ratio. Accepted: the bytes that a head may read, over full fp16 K and V.\n"
            "  Write: ratio: 0.2"
        )


@lru_cache
def selector_options(name: str) -> tuple[str, ...]:
    """Hyperparameters of a selector, read from its source: importing it would cost every use of the config a second."""
    tree = ast.parse((Path(__file__).parents[1] / "selectors" / f"{name}.py").read_text(encoding="utf-8"))
    (found,) = [
        node
        for node in tree.body
        if isinstance(node, ast.ClassDef) and any(ast.unparse(base) == "Selector" for base in node.bases)
    ]
    return tuple(
        line.target.id
        for line in found.body
        if isinstance(line, ast.AnnAssign)
        and isinstance(line.target, ast.Name)
        and "ClassVar" not in ast.unparse(line.annotation)
    )


def _fix(key: str, accepted: Collection[str], value: Any) -> str:
    near = _near(key, accepted)
    fix = f"Did you mean `{near}`? Write: {near}: {value}" if near else "Remove it."
    return f"Accepted: {', '.join(accepted) or 'none'}.\n  {fix}"


def _near(word: str, known: Collection[str]) -> str | None:
    return next(iter(difflib.get_close_matches(word, known, n=1, cutoff=0.6)), None)
