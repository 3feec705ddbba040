"""A run of the workflow: the config together with what the model and the files on this machine make of it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from ghostkv.captures.captured_texts import CapturedText
from ghostkv.codecs.records import CodecSpec
from ghostkv.codecs.sizes import code_bytes
from ghostkv.config.demo import demo_config
from ghostkv.config.experiment import Config, load_config
from ghostkv.config.words import marked
from ghostkv.sources.documents import TextSource, local_files
from ghostkv.sources.entries import ModelEntry
from ghostkv.sources.model_size import ModelSize, size_of
from ghostkv.sources.registry import check_domains, read_sources, resolve_model
from ghostkv.stages.checks import check_files, check_model, check_names, check_positions, check_sources


@dataclass(frozen=True)
class Run:
    """One experiment, resolved before anything runs.

    Attributes
    ----------
    config : Config
    model : ModelEntry
        With its number of layers and its head_dim.
    layers : tuple of int
        Layers to measure.
    trace : dict
        The text of the trace by name, see `Config.trace_text`; empty where tensors are imported.
    sources : dict
        Domain -> where its documents are kept.
    folder : str
        Where its results lie.
    compares : bool
        Whether it is a whole run, with stages that let the model decode under policies.
    """

    config: Config
    model: ModelEntry
    layers: tuple[int, ...]
    trace: dict[str, dict[str, Any]]
    sources: dict[str, TextSource]
    folder: str = "results"
    compares: bool = True

    @classmethod
    def resolve(
        cls, raw: Mapping[str, Any], resources: str | Path, typed: Mapping[str, Any] | None = None
    ) -> Run:
        """Validate a config and look up what it names.

        Parameters
        ----------
        raw : mapping
            Sections by name, as `load_config` takes them.
        resources : str or Path
            Folder of `models.yaml` and `texts.yaml`.
        typed : mapping, optional
            What of `raw` the command line says, where all values are text.

        Raises
        ------
        GhostKVError
            With one message that says what to write instead.
        """
        config = load_config(marked(raw, typed or {}))
        models, texts = f"{resources}/models.yaml", f"{resources}/texts.yaml"
        model = resolve_model(config.model.name, config.model.plain()["custom"], models)
        layers = check_model(config, model.attending(), model.head_dim, model.max_context)
        check_positions(config)
        trace = config.trace_text(model.max_context)
        check_files(config)
        check_domains(config.texts.domains, texts)
        listed = read_sources(texts)
        run = cls(config, model, tuple(layers), trace, {name: listed[name] for name in config.texts.domains})
        check_sources(run.sources)
        check_names(run.watched())
        return run

    def demo(self) -> Run:
        """The same run made small, of every layer, with results of its own; see `ghostkv.config.demo`.

        Imported tensors have no model to show, and their config stays as it is: `check_stage` refuses the demonstration.
        """
        if self.imports:
            return replace(self, folder=f"{self.folder}/demo")
        config = demo_config(self.config)
        return replace(
            self,
            config=config,
            layers=tuple(self.model.attending()),
            trace={},
            sources={name: self.sources[name] for name in config.texts.domains},
            folder=f"{self.folder}/demo",
            compares=False,
        )

    @cached_property
    def texts(self) -> dict[str, dict[str, Any]]:
        """Every text of the run by name, see `Config.text_names`."""
        return self.config.text_names()

    @cached_property
    def captures(self) -> tuple[CapturedText, ...]:
        """The capture of every text, in their order."""
        return tuple(
            CapturedText(name, entry["domain"], entry["role"], f"{self.folder}/capture/{name}")
            for name, entry in self.texts.items()
        )

    @cached_property
    def traces(self) -> tuple[CapturedText, ...]:
        """The capture of the long text; none where tensors are imported."""
        return tuple(
            CapturedText(name, entry["domain"], "trace", f"{self.folder}/trace")
            for name, entry in self.trace.items()
        )

    @property
    def codecs(self) -> tuple[CodecSpec, ...]:
        """Codecs of `sketch`, one a record size, in the config's order."""
        return tuple(
            CodecSpec(codec.name, code_bytes(bits, self.key_width))
            for codec in self.config.sketch.codecs
            for bits in codec.bits
        )

    @property
    def compared_layers(self) -> tuple[int, ...]:
        """Layers in which every codec of `sketch` is sketched and swept."""
        return self.layers[:: self.config.sketch.compared_every]

    def sketched(self, layer: int) -> tuple[CodecSpec, ...]:
        """Codecs that are sketched in a layer: all, or the headline's at all its sizes."""
        name = self.config.frontier.headline.codec
        return tuple(spec for spec in self.codecs if layer in self.compared_layers or spec.name == name)

    def fitted(self, layer: int) -> tuple[CodecSpec, ...]:
        """Codecs that policies read in every layer, where the sketch of this one has no use for their records."""
        # Imported tensors have no model that could decode.
        decode = self.compares and not self.imports
        entries = (*self.config.quality.policies, *self.config.retrieval.policies) if decode else ()
        asked = sorted({entry.record for entry in entries if entry.record})
        specs = dict.fromkeys(CodecSpec(name, code_bytes(bits, self.key_width)) for name, bits in asked)
        return tuple(spec for spec in specs if spec not in self.sketched(layer))

    def swept(self, layer: int) -> tuple[CodecSpec, ...]:
        """Codecs that are swept in a layer: all, or the headline's at its size."""
        return self.codecs if layer in self.compared_layers else (self.headline_spec(),)

    def headline_spec(self, head_dim: int | None = None) -> CodecSpec:
        """The codec of `frontier.headline` at its size, for keys of this width; the model's, where none is given."""
        headline = self.config.frontier.headline
        return CodecSpec(headline.codec, code_bytes(headline.bits, head_dim or self.key_width))

    @cached_property
    def imports(self) -> dict[str, dict[str, Any]]:
        """Texts that no model reads, each with its folder of captured tensors."""
        return (
            {name: entry["custom"] for name, entry in self.texts.items()}
            if self.config.capture.import_
            else {}
        )

    @property
    def dtype(self) -> str:
        """Type of the forward pass."""
        return self.config.model.dtype

    @property
    def device(self) -> str:
        """Where the model runs, as the config says it."""
        return self.config.model.device

    @property
    def gpus(self) -> int:
        """GPUs that a job takes which runs the model."""
        return int(self.device != "cpu" and not self.imports)

    @property
    def key_width(self) -> int:
        """Width of the keys that are measured, of which sizes in bits a coordinate are so many bytes."""
        return self.size.head_dim if self.imports else self.model.head_dim

    @property
    def longest(self) -> int:
        """Tokens of the longest text that is read."""
        return max(self.config.capture.tokens, *(entry["tokens"] for entry in self.trace.values()), 0)

    @property
    def model_folder(self) -> str:
        """Where the fetched model lies."""
        return f"resources/models/{self.config.model.name}"

    @cached_property
    def size(self) -> ModelSize:
        """How large the model is, which may not be here yet; of imported tensors their own shape.

        Raises
        ------
        ModelError
            A file that should state the shape does not.
        """
        if not self.imports:
            return size_of(self.model, self.model_folder)
        # Only here, as it brings NumPy.
        from ghostkv.stages.capture.tensor_import import StatedShape, layers_in

        first = StatedShape.of(layers_in(next(iter(self.imports.values()))["folder"])[self.layers[0]])
        shape = {"layers": len(self.layers), "heads": first.heads, "kv_heads": first.kv_heads}
        return ModelSize(**shape, head_dim=first.head_dim, width=first.heads * first.head_dim)

    def layer_names(self, layers: tuple[int, ...] | None = None) -> list[str]:
        """Layers as file names have them."""
        return [f"{layer:02d}" for layer in (self.layers if layers is None else layers)]

    def spread_layers(self, count: int) -> tuple[int, ...]:
        """So many of the layers, spread evenly over all."""
        count = min(count, len(self.layers))
        return tuple(self.layers[step * (len(self.layers) - 1) // max(1, count - 1)] for step in range(count))

    def texts_of(self, role: str) -> list[str]:
        """Names of the texts of a role that a model reads."""
        return [
            name for name, entry in self.texts.items() if entry["role"] == role and name not in self.imports
        ]

    def own_files(self) -> list[str]:
        """Files on this machine that texts are made of: the user's own, and those of domains of kind files."""
        return local_files(
            self.texts | self.trace, {name: source.plain() for name, source in self.sources.items()}
        )

    def imported_files(self, text: str) -> list[str]:
        """The tensors that stand for a text."""
        folder = Path(self.imports[text]["folder"])
        return sorted(str(path) for end in ("npz", "safetensors") for path in folder.glob(f"*.{end}"))

    def watched(self) -> list[str]:
        """All files on this machine that jobs depend on."""
        if self.imports:
            return [file for text in self.imports for file in self.imported_files(text)]
        questions = [] if (data := self.config.retrieval.data) == "ruler" else [data]
        return [*self.own_files(), *questions, *self.model.local_files()]


def resources_of(root: str | Path) -> str:
    """The project's resources, seen from the folder that a run works in."""
    return os.path.relpath(f"{root}/resources")
