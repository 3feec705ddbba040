"""What a config asks of the model and of files on this machine, checked before anything runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from ghostkv.codecs.sizes import code_bytes
from ghostkv.config.experiment import Config
from ghostkv.config.policies import SelectorPolicy
from ghostkv.config.retrieval import Retrieval
from ghostkv.config.selectors import check_width
from ghostkv.files.errors import ConfigError
from ghostkv.sources.documents import TextSource, read_own

if TYPE_CHECKING:
    from ghostkv.stages.capture.tensor_import import StatedShape

# What rounds to no byte.
_HALF_A_BYTE = 4
_RULER = Path(__file__).parent / "retrieval/tasks/ruler.yaml"


def check_model(
    config: Config, layers: Sequence[int], head_dim: int, max_context: int | None = None
) -> list[int]:
    """The layers to measure, once the model is known.

    Parameters
    ----------
    config : Config
    layers : sequence of int
        Layers of the model that attend. Where tensors are imported, the layers are those that every folder holds.
    head_dim : int
        Width of the model's keys.
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
    check_widths(config, head_dim)
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


def check_device(config: Config) -> None:
    """Refuse a `model.device`, by a `ConfigError`, that this machine does not have."""
    # Imported tensors have no model; and torch takes seconds to import, where there is nothing to ask it.
    if config.capture.import_ or config.model.device in ("cpu", "auto"):
        return
    from ghostkv.models.devices import device_of

    device_of(config.model.device)


def check_widths(config: Config, head_dim: int) -> None:
    """Refuse options of selectors, and sizes of records, by a `ConfigError`, that keys of this width do not have."""
    for entry in config.peers.selectors:
        check_width(entry.plain(), "peers.selectors", head_dim)
    for section in ("quality", "retrieval"):
        for policy in getattr(config, section).policies:
            if isinstance(policy, SelectorPolicy):
                check_width(policy.selector.plain(), f"{section}.policies {policy.name}", head_dim)
    for codec in config.sketch.codecs:
        _check_sizes(f"sketch.codecs ({codec.name})", codec.bits, head_dim)
    _check_sizes("calibrated", config.calibrated.bits, head_dim)
    synthetic, decoded = config.synthetic, config.decode.synthetic
    for codec in synthetic.codecs:
        _check_sizes(f"synthetic.codecs ({codec.name})", codec.bits, synthetic.head_dim)
    for made in (synthetic.head_dim, decoded.head_dim):
        _check_sizes("frontier.headline", [config.frontier.headline.bits], made)
    _check_sizes("store", [config.store.bits], config.store.head_dim)


def _check_sizes(where: str, sizes: Sequence[float], head_dim: int) -> None:
    """Refuse, by a `ConfigError`, sizes in bits a coordinate that are less than a byte, or two that are the same bytes."""
    found: dict[int, float] = {}
    for bits in sizes:
        size = code_bytes(bits, head_dim)
        if bits * head_dim <= _HALF_A_BYTE:
            raise ConfigError(
                f"config: {where} has bits: {bits:g}, which is {bits * head_dim:g} bits for a key of head_dim: {head_dim}. "
                f"Accepted: a size that rounds to one byte or more.\n  Write: bits: {8 / head_dim:g}"
            )
        if size in found:
            raise ConfigError(
                f"config: {where} has bits: {found[size]:g} and {bits:g}, which are both {size} bytes for keys of head_dim: "
                f"{head_dim}. Accepted: sizes of different bytes.\n  Write: bits: "
                f"{[one for one in sizes if one != bits]}"
            )
        found[size] = bits


def check_positions(config: Config) -> None:
    """Refuse a `frontier.headline_start`, by a `ConfigError`, that lies beyond the last query of some measured text."""
    # No role has fewer queries.
    bands, start = config.query_bands("held_out"), config.frontier.headline_start
    if any(band.start + band.count > start for band in bands):
        return
    # Only here, as it brings NumPy: whether a query lies there depends on the draw.
    from ghostkv.captures.positions import sample_positions

    for text, entry in config.text_names().items():
        last = int(sample_positions(config.query_bands(entry["role"]), text, config.capture.seed).max())
        if entry["role"] != "codec" and last < start:
            raise ConfigError(
                f"config: frontier.headline_start is {start}, but the last query of {text} that capture.query_bands draw "
                f"is at {last}. Accepted: at most that.\n  Write: headline_start: {bands[-1].start}"
            )


def check_files(config: Config) -> None:
    """Refuse files and folders of the user's own that are not there or no text, before anything is fetched.

    Folders of tensors are read by `check_model`, and a model's own by `sources.registry`.

    Raises
    ------
    ConfigError
        `retrieval.data` lacks a file that a task is made of.
    TextError
        A path of `texts.custom`, or `trace.path`, is no file, or no UTF-8 text.
    """
    # Imported tensors have no model that reads texts or questions.
    if config.capture.import_:
        return
    own = [item.plain() for item in config.texts.custom if item.path is not None]
    own += [{"path": config.trace.path, "role": "trace"}] if config.trace.path is not None else []
    for item in own:
        read_own(item)
    if config.retrieval.data != "ruler":
        _check_questions(config.retrieval)


def _check_questions(retrieval: Retrieval) -> None:
    # Only here, as it brings NumPy.
    from ghostkv.stages.retrieval.tasks import TASKS

    names, folder = yaml.safe_load(_RULER.read_text(encoding="utf-8")), Path(retrieval.data)
    needed = sorted({names[source] for entry in retrieval.tasks if (source := TASKS[entry.task].source)})
    lacking = [name for name in needed if not (folder / name).is_file()]
    if lacking or not folder.is_dir():
        what = f"which has no {', '.join(lacking)}" if folder.is_dir() else "and there is no such folder"
        raise ConfigError(
            f"config: retrieval.data is {folder}, seen from {Path.cwd()}, {what}. Accepted: ruler, or a folder with "
            f"{', '.join(needed) or 'such files'}.\n  Write: data: ruler"
        )


def check_sources(sources: Mapping[str, TextSource]) -> None:
    """Refuse, by a `ConfigError`, domains of local files whose pattern matches none."""
    for domain, source in sources.items():
        if source.kind == "files" and not source.local_files():
            raise ConfigError(
                f"config: texts.domains names {domain}, whose path in resources/texts.yaml, {source.path}, matches no file "
                f"seen from {Path.cwd()}. Accepted: a pattern of files.\n  Write: path: /data/books/*.txt"
            )


def check_names(files: Iterable[str]) -> None:
    """Refuse, by a `ConfigError`, files that Snakemake cannot watch: what stands in braces is a wildcard to it."""
    for file in files:
        if set("{}") & set(file):
            raise ConfigError(
                f"config: {file} has a brace in its name, which the workflow would take for a wildcard. Accepted: names "
                "of files and folders without { and }.\n  Rename it, or put a link to it: ln -s ... mine.txt"
            )


def _check_shapes(config: Config, shapes: Mapping[str, StatedShape]) -> None:
    """What is fitted on one folder is measured on another, so all must be of one model and long enough."""
    for folder, shape in shapes.items():
        if shape.tokens < config.capture.tokens:
            raise ConfigError(
                f"config: capture.import: {folder} has {shape.tokens} tokens, fewer than capture.tokens: "
                f"{config.capture.tokens}.\n  Write: tokens: {shape.tokens}   and query_bands within it, under capture"
            )
    if len({replace(shape, tokens=0) for shape in shapes.values()}) > 1:
        raise ConfigError(
            "config: capture.import names folders of different shapes: "
            + "; ".join(
                f"{folder} has {one.heads} heads, {one.kv_heads} KV heads, head_dim {one.head_dim} and value_dim "
                f"{one.value_dim}"
                for folder, one in shapes.items()
            )
            + ".\n  Write: folders that were captured from one model, all with v or all without"
        )
    check_widths(config, min(shape.head_dim for shape in shapes.values()))


def _imported_layers(config: Config) -> list[int]:
    # Only here, as it brings NumPy.
    from ghostkv.stages.capture.tensor_import import StatedShape, heads_in, layers_in

    wanted = config.capture.layers
    found = {item.folder: layers_in(item.folder) for item in config.capture.import_}
    heads = {folder: heads_in(layers) for folder, layers in found.items()}
    if len(set(map(tuple, heads.values()))) > 1:
        raise ConfigError(
            "config: capture.import names folders of different heads: "
            + "; ".join(
                f"{folder} has files for heads {numbers or 'of whole layers'}"
                for folder, numbers in heads.items()
            )
            + ".\n  Write: folders that hold the same heads, as what is fitted on one is measured on another"
        )
    held = {folder: set(layers) for folder, layers in found.items()}
    shared = sorted(set.intersection(*held.values()))
    if shared:
        _check_shapes(config, {folder: StatedShape.of(layers[shared[0]]) for folder, layers in found.items()})
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
