"""What a config asks of the model and of files on this machine, checked before anything runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ghostkv.config.experiment import Config
from ghostkv.config.words import flow
from ghostkv.files.errors import ConfigError


def check_model(config: Config, layers: Sequence[int], max_context: int | None = None) -> list[int]:
    """The layers to measure, once the model is known.

    Parameters
    ----------
    config : Config
    layers : sequence of int
        Layers of the model that attend. Where tensors are imported, the layers are those that every folder holds.
    max_context : int, optional
        Longest context that the model takes, in tokens.

    Raises
    ------
    ConfigError
        The config asks for a layer or a context that the model lacks.
    CaptureError
        A folder of imported tensors cannot be read.
    """
    if config.capture.import_:
        return _imported_layers(config)
    wanted, name = config.capture.layers, config.model.name
    if max_context and config.capture.tokens > max_context:
        raise ConfigError(
            f"config: capture.tokens is {config.capture.tokens}, but {name} takes at most "
            f"{max_context} tokens.\n"
            f"  Write: tokens: {max_context}   (under capture; query_bands must stop there too)"
        )
    if wanted == "all":
        return list(layers)
    lacking = [layer for layer in wanted if layer not in layers]
    if lacking:
        whole = list(layers) == list(range(len(layers)))
        accepted = f"layers from 0 to {len(layers) - 1}" if whole else f"of {list(layers)}, which attend"
        raise ConfigError(
            f"config: capture.layers asks for layer {', '.join(map(str, lacking))}, but {name} has {len(layers)} "
            f"layers{'' if whole else ' that attend'}. Accepted: all, or {accepted}.\n"
            f"  Write: layers: {[layer for layer in wanted if layer in layers] or [layers[-1]]}"
        )
    return sorted(wanted)


def check_files(config: Config) -> None:
    """Refuse texts of the user's own that are not there, before anything is fetched.

    Raises
    ------
    ConfigError
        A path of `texts.custom` is no file.
    """
    for item in () if config.capture.import_ else config.texts.custom:
        if item.path is not None and not Path(item.path).is_file():
            raise ConfigError(
                f"config: texts.custom ({item.domain}, {item.role}) has path {item.path}, and there is no such file "
                f"seen from {Path.cwd()}. Accepted: a UTF-8 text file.\n"
                f"  Write: {{domain: {flow(item.domain)}, role: {item.role}, path: /data/mine.txt}}"
            )


def _imported_layers(config: Config) -> list[int]:
    # Only here, as it brings NumPy.
    from ghostkv.stages.capture.tensor_import import layers_in

    wanted, folders = config.capture.layers, [item.folder for item in config.capture.import_]
    held = {folder: set(layers_in(folder)) for folder in folders}
    shared = sorted(set.intersection(*held.values()))
    if wanted == "all":
        if not shared:
            raise ConfigError(
                "config: capture.import names folders that hold no layer in common: "
                + "; ".join(f"{folder} holds {sorted(found)}" for folder, found in held.items())
                + ".\n  Write: folders that were captured from the same layers"
            )
        return shared
    for folder, found in held.items():
        lacking = sorted(set(wanted) - found)
        if lacking:
            raise ConfigError(
                f"config: capture.layers asks for layer {', '.join(map(str, lacking))}, but {folder} holds "
                f"{sorted(found)}. Accepted: all, or layers that every folder holds.\n  Write: "
                f"layers: {shared or 'all'}"
            )
    return sorted(wanted)
