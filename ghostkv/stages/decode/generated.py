"""The lifecycle on generated tensors, for tests without a model."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ghostkv.captures.generated import Shape, draw, last_queries
from ghostkv.captures.generators import make
from ghostkv.codecs.fitting import fit
from ghostkv.elimination.frontier import Design, choices, estimate_group, sweep_rule, view_group
from ghostkv.files.io import stable_seed
from ghostkv.files.logs import progress
from ghostkv.files.provenance import metadata
from ghostkv.files.tables import Tables
from ghostkv.stages.decode.layer import _Decodes, _setting, _spec
from ghostkv.stages.decode.tables import SCHEMAS


def measure_synthetic(params: Mapping, outputs: Mapping[str, str]) -> None:
    """Decode generated tensors: codec and thresholds from texts of their own, as long as what precedes the first step.

    Parameters
    ----------
    params : mapping
        As for `measure_layer`, with the whole section `frontier` under `frontier`.
    outputs : mapping
        Paths of the tables of `SCHEMAS` but for `store`.
    """
    options, tables = params["synthetic"], Tables(SCHEMAS)
    setting, rule = _setting(params["frontier"])
    for entry in options["generators"]:
        label, tokens, steps = entry["name"], options["tokens"], options["steps"]
        seed, shape = stable_seed("decode", label), Shape(tokens, options["group"], options["head_dim"])
        generator = make(entry, span=tokens)
        codec = fit(_spec(params), last_queries(generator, seed, "codec", shape, tokens // 4), seed)
        text = last_queries(generator, seed, "threshold", shape, tokens // 4).capture
        view = view_group(text, 0, setting, False)
        design = Design(params["headline"]["codec"], params["headline"]["bytes"], codec)
        swept = sweep_rule(view, estimate_group(view, design, codec.encode(text.keys[0])), rule, setting)
        found = choices([swept], [swept], {"fer": [params["target"]]}, params["frontier"]["safe"])[0]
        grid = setting.grids[rule].theta
        theta = np.where(found.index >= 0, grid[np.maximum(found.index, 0)], -np.inf)
        positions = np.arange(tokens, tokens + steps)
        capture = draw(
            generator, seed, "held_out", tokens + steps, positions, group=shape.group, width=shape.width
        ).capture
        decodes = _Decodes(params, {"source": label, "layer": 0}, tables)
        with progress(total=steps * decodes.passes(0, 1), desc=label, unit="step") as bar:
            decodes.add(capture, 0, codec, codec.encode(capture.keys[0]), theta, bar.update)
    tables.write(outputs, metadata(params.get("code")))
