"""Generated tensors as files: a capture folder, or `.npz` that `capture.import` reads, so that every stage runs on them.

`python -m ghostkv.stages.synthetic.files needles /data/needles --tokens 4096 --text codec`
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ghostkv.captures.capture_files import CaptureWriter, LayerCapture
from ghostkv.captures.generated import draw
from ghostkv.captures.generators import GENERATORS, Generator, make
from ghostkv.elimination.attention import cold_range, exact_attention
from ghostkv.files import provenance
from ghostkv.files.errors import GhostKVError
from ghostkv.files.io import atomic_path

# There is no model whose output could be compared; the tensors are their own truth.
_ERRORS = ("max", "mean", "layer", "exact", "storage")
_PROOF = {f"{kind}_relative_error": None for kind in _ERRORS} | {"recomputed": 0}


def write_capture(
    folder: str | Path,
    generator: Generator,
    seed: int,
    text: str,
    tokens: int,
    positions: np.ndarray,
    *,
    layers: int = 1,
    width: int = 64,
    **heads: int,
) -> None:
    """Write a generated capture, as `captures.read_layer` reads it; `heads` are `kv_heads` and `group`, as for `draw`.

    Texts of one seed share their worlds, layer by layer.
    """
    metadata = provenance.metadata(model=f"synthetic {generator}", text=text)
    with CaptureWriter(folder, width, width, metadata) as writer:
        for layer in range(layers):
            capture = _layer(generator, seed, text, tokens, positions, layer, width=width, **heads)
            writer.append(_with_outputs(capture), _PROOF)


def write_tensors(
    folder: str | Path,
    generator: Generator,
    seed: int,
    text: str,
    tokens: int,
    *,
    layers: int = 1,
    **sizes: int,
) -> None:
    """Write `layer00.npz`, ... with q, k and v of every position, as `capture.import` reads them.

    Sizes are `kv_heads`, `group` and `width`, as for `draw`.
    """
    for layer in range(layers):
        capture = _layer(generator, seed, text, tokens, np.arange(tokens), layer, **sizes)
        with atomic_path(Path(folder) / f"layer{layer:02d}.npz") as temporary, open(temporary, "wb") as file:
            np.savez(file, q=capture.queries, k=capture.keys, v=capture.values)


def _layer(generator, seed, text, tokens, positions, layer, **sizes) -> LayerCapture:
    return draw(generator, f"{seed}/{layer}", text, tokens, positions, layer=layer, **sizes).capture


def _with_outputs(capture: LayerCapture) -> LayerCapture:
    visible = cold_range(capture.positions, capture.first_visible(), 0, 1)
    outputs = [
        exact_attention(capture, head, capture.keys[head].astype(np.float32), visible, 1).mass
        @ capture.values[head].astype(np.float32)
        for head in range(capture.kv_heads)
    ]
    return replace(capture, outputs=np.concatenate(outputs))


def main(arguments: Sequence[str] | None = None) -> None:
    """Write `.npz` files of a generator."""
    parser = argparse.ArgumentParser(
        prog="python -m ghostkv.stages.synthetic.files", description=main.__doc__
    )
    parser.add_argument("generator", choices=sorted(GENERATORS))
    parser.add_argument("folder")
    parser.add_argument("--text", default="held_out", help="name of the text; another name is another draw")
    parser.add_argument("--seed", type=int, default=0, help="texts of one seed share their worlds")
    for name, value in {"tokens": 4096, "layers": 1, "kv-heads": 1, "group": 3, "width": 64}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--spread", type=float, default=2.0, help="standard deviation of a query's scores")
    given = parser.parse_args(arguments)
    try:
        generator = make({"name": given.generator}, spread=given.spread, span=given.tokens)
        write_tensors(
            given.folder, generator, given.seed, given.text, given.tokens, layers=given.layers,
            kv_heads=given.kv_heads, group=given.group, width=given.width,
        )  # fmt: skip
    except GhostKVError as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
