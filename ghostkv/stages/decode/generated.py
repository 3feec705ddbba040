"""The lifecycle on generated tensors, for tests without a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from ghostkv.captures.generated import Shape, draw, last_queries
from ghostkv.captures.generators import make
from ghostkv.codecs.fitting import fit
from ghostkv.elimination.frontier import Design, Setting, choices, estimate_group, sweep_rule, view_group
from ghostkv.files import provenance
from ghostkv.files.io import stable_seed
from ghostkv.files.progress import progress
from ghostkv.files.tables import Tables
from ghostkv.stages.decode.layer import _Decodes
from ghostkv.stages.decode.schemas import SCHEMAS

if TYPE_CHECKING:
    from ghostkv.stages.decode.jobs import DecodeGenerated


def measure_generated(job: DecodeGenerated, inputs: Mapping[str, str], outputs: Mapping[str, str]) -> None:
    """Decode generated tensors: codec and thresholds from texts of their own, as long as what precedes the first
    step.
    """
    tables, rule = Tables(SCHEMAS), job.rule
    setting = Setting.of(job.sinks, job.hot, job.top_k, {rule: job.grid})
    for entry in job.generators:
        label, tokens, steps = entry["name"], job.tokens, job.steps
        seed, shape = stable_seed("decode", label), Shape(tokens, job.group, job.head_dim)
        generator = make(entry, span=tokens)
        codec = fit(job.headline, last_queries(generator, seed, "codec", shape, tokens // 4), seed)
        text = last_queries(generator, seed, "threshold", shape, tokens // 4).capture
        view = view_group(text, 0, setting, False)
        design = Design(job.headline.name, job.headline.code_bytes, codec)
        swept = sweep_rule(view, estimate_group(view, design, codec.encode(text.keys[0])), rule, setting)
        found = choices([swept], [swept], {"fer": [job.target]}, job.safe)[0]
        grid = setting.grids[rule].theta
        theta = np.where(found.index >= 0, grid[np.maximum(found.index, 0)], -np.inf)
        positions = np.arange(tokens, tokens + steps)
        capture = draw(
            generator, seed, "held_out", tokens + steps, positions, group=shape.group, width=shape.width
        ).capture
        decodes = _Decodes(job, {"source": label, "layer": 0}, tables)
        with progress(total=steps * decodes.passes(0, 1), desc=label, unit="step") as bar:
            decodes.add(capture, 0, codec, codec.encode(capture.keys[0]), theta, bar.update)
    tables.write(outputs, provenance.metadata(job.code))
