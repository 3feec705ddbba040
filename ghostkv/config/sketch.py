"""Section `sketch`: which ghost records are kept of the keys."""

from __future__ import annotations

from typing import Annotated, Literal

from ghostkv.config.base import CodeBits, Layers, Section, Seed, once, setting
from ghostkv.files.methods import methods

# One file each in ghostkv/codecs.
CodecName = Literal[*methods("codecs", "Codec")]


class CodecEntry(Section):
    """One codec at several record sizes."""

    name: CodecName = setting(..., "A file of ghostkv/codecs, without .py.")
    bits: Annotated[list[CodeBits], once()] = setting(
        ...,
        "Bits a coordinate of the code of one key, one record each.",
        min_length=1,
        max_length=32,
        examples=[[1.0, 2.0, 4.0]],
    )


class Sketch(Section):
    """Which ghost records are kept of the keys."""

    codecs: Annotated[list[CodecEntry], once("name")] = setting(
        [
            CodecEntry(name="gaussian", bits=[1.0, 2.0, 4.0]),
            CodecEntry(name="random_orthogonal", bits=[1.0, 2.0, 4.0]),
            CodecEntry(name="pca", bits=[1.0, 2.0, 4.0]),
            CodecEntry(name="whitened", bits=[1.0, 2.0, 4.0]),
            CodecEntry(name="transform_code", bits=[0.5, 1.0, 2.0, 4.0]),
        ],
        "Codecs and the bits a coordinate that the code of a key takes: 1 is 8 bytes at head_dim 64, and 16 at 128, rounded to a "
        "whole byte. One byte of residual norm comes on top and is counted in every bytes ratio.",
        min_length=1,
        max_length=32,
    )
    compared_every: Layers = setting(
        3,
        "Codecs beside frontier.headline.codec are there for comparison: they are sketched, and swept, in one layer in so "
        "many. So are other sizes of it.",
    )
    seed: Seed = setting(0, "Seed of the random projections.")
