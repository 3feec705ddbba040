"""Section `model`: whose attention is measured."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from ghostkv.config.base import Heads, Layer, Layers, Place, Section, Seed, setting
from ghostkv.config.options import Width
from ghostkv.files.errors import ConfigError


class CustomModel(Section):
    """A model that resources/models.yaml does not list."""

    source: Literal["hub", "path", "random"] = setting(
        ...,
        "hub: a Hugging Face id; path: a local folder or GGUF file; random: untrained weights.",
    )
    id: str | None = setting(None, "Hub id, for source hub.", examples=["Qwen/Qwen2.5-0.5B"])
    revision: str | None = setting(None, "Hub commit, tag or branch. Pin a commit to repeat a run.")
    path: Place | None = setting(None, "Folder or GGUF file, for source path.")
    architecture: Literal["llama", "gpt2"] | None = setting(None, "For source random.")
    shape: Place | None = setting(
        None,
        "For source hub: the model's config.json, or a GGUF file of it, which states the shape before anything is fetched.",
    )
    layers: Layers | None = setting(
        None, "Number of layers. Read from a local folder's config.json, or from shape."
    )
    attention_layers: list[Layer] | None = setting(
        None,
        "Layers that attend, where not all do, counted from 0. Read from a local folder's config.json.",
        max_length=1000,
    )
    heads: Heads | None = setting(None, "Query heads per layer.")
    kv_heads: Heads | None = setting(None, "Key-value heads per layer.")
    head_dim: Width | None = setting(None, "Width of a head.")
    max_context: int | None = setting(
        None, "Longest context that the model takes, in tokens.", ge=1, le=1 << 40
    )
    license: str | None = setting(None, "Recorded in the manifest and shown in the report.")
    seed: Seed | None = setting(None, "Seed of the weights, for source random.")

    @model_validator(mode="after")
    def _source_has_its_key(self) -> CustomModel:
        needs = {"hub": "id", "path": "path", "random": "architecture"}[self.source]
        if getattr(self, needs) is None:
            example = {"id": "Qwen/Qwen2.5-0.5B", "path": "/data/models/mine", "architecture": "llama"}[needs]
            raise ConfigError(
                f"config: model.custom.{needs} is missing, and source: {self.source} needs it.\n"
                f"  Write: model: {{name: mine, custom: {{source: {self.source}, {needs}: {example}}}}}"
            )
        if self.shape is not None and self.source != "hub":
            raise ConfigError(
                f"config: model.custom.shape is set, and source: {self.source} states its shape by itself. Accepted: shape "
                "beside source: hub.\n  Remove shape"
            )
        return self


class Model(Section):
    """Whose attention is measured."""

    name: str = setting(
        "smollm2-135m-instruct",
        "A name from resources/models.yaml, or your own beside `custom`. Folders are named by it.",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        max_length=128,
    )
    dtype: Literal["float32", "bfloat16", "float16"] = setting(
        "float32", "Type of the forward pass. K and V are stored as float16 whatever it is."
    )
    device: str = setting(
        "cpu",
        "Where the model runs: cpu, cuda, cuda:1, or auto, which is CUDA where there is any. What is done with its queries, keys "
        "and values beyond the forward pass is done on the CPU.",
        pattern=r"^(auto|cpu|cuda(:[0-9]{1,3})?)$",
    )
    custom: CustomModel | None = setting(
        None,
        "A model that resources/models.yaml does not list, for instance {source: hub, id: Qwen/Qwen2.5-0.5B, revision: "
        "main, layers: 24, heads: 14, kv_heads: 2, head_dim: 64} or {source: path, path: /data/mine}.",
    )
