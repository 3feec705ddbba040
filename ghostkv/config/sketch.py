"""Section `sketch`: which ghost records are kept of the keys."""

from __future__ import annotations

from typing import Annotated, Literal

from ghostkv.config.base import CodeBytes, Layers, Section, Seed, once, setting
from ghostkv.files.methods import methods

# One file each in ghostkv/codecs.
CodecName = Literal[*methods("codecs", "Codec")]


class CodecEntry(Section):
    """One codec at several record sizes."""

    name: CodecName = setting(..., "A file of ghostkv/codecs, without .py.")
    bytes: Annotated[list[CodeBytes], once()] = setting(
        ...,
        "Bytes of the code of one key, one record each.",
        min_length=1,
        max_length=32,
        examples=[[8, 16, 32]],
    )


class Sketch(Section):
    """Which ghost records are kept of the keys."""

    codecs: Annotated[list[CodecEntry], once("name")] = setting(
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
        max_length=32,
    )
    compared_every: Layers = setting(
        3,
        "Codecs beside frontier.headline.codec are there for comparison: they are sketched, and swept, in one layer in so "
        "many. So are other sizes of it.",
    )
    seed: Seed = setting(0, "Seed of the random projections.")
