"""Section `sketch`: which ghost records are kept of the keys."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from ghostkv.config.base import PositiveInt, Section, setting
from ghostkv.files.errors import ConfigError
from ghostkv.files.methods import methods

# One file each in ghostkv/codecs.
CodecName = Literal[*methods("codecs", "Codec")]


class CodecEntry(Section):
    """One codec at several record sizes."""

    name: CodecName = setting(..., "A file of ghostkv/codecs, without .py.")
    bytes: list[PositiveInt] = setting(
        ..., "Bytes of the code of one key, one record each.", min_length=1, examples=[[8, 16, 32]]
    )


class Sketch(Section):
    """Which ghost records are kept of the keys."""

    codecs: list[CodecEntry] = setting(
        [
            CodecEntry(name="gaussian", bytes=[8, 16, 32]),
            CodecEntry(name="random_orthogonal", bytes=[8, 16, 32]),
            CodecEntry(name="pca", bytes=[8, 16, 32]),
            CodecEntry(name="whitened", bytes=[8, 16, 32]),
            CodecEntry(name="transform_code", bytes=[4, 8, 16, 32]),
        ],
        "Codecs and the bytes of code that each keeps per key. Norms and residuals come on top and are counted in every "
        "bytes ratio.",
        min_length=1,
    )
    seed: int = setting(0, "Seed of the random projections.")

    @model_validator(mode="after")
    def _each_once(self) -> Sketch:
        names = [codec.name for codec in self.codecs]
        doubled = sorted({name for name in names if names.count(name) > 1})
        if doubled:
            raise ConfigError(
                f"config: sketch.codecs lists {doubled[0]} twice.\n  Write: {{name: "
                f"{doubled[0]}, bytes: [8, 16]}}   (once)"
            )
        for codec in self.codecs:
            if len(set(codec.bytes)) < len(codec.bytes):
                raise ConfigError(
                    f"config: sketch.codecs {codec.name} repeats a record size: {codec.bytes}.\n"
                    f"  Write: bytes: {sorted(set(codec.bytes))}"
                )
        return self
