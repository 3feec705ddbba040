"""What the disk of each stage grows with: of captures the bytes themselves, of tables their rows."""

from __future__ import annotations

from ghostkv.stages.plan.terms import START
from ghostkv.stages.plan.workload import GIGA, Workload

# Bytes of a number of K and V, and of queries and outputs.
_HALF, _SINGLE = 2, 4


def _captured(work: Workload, tokens: int, queries: int) -> float:
    """GB of a capture: K and V as float16, queries and outputs as float32, and positions."""
    size, layers = work.size, len(work.layers)
    asked = 2 * queries * size.heads * size.head_dim * layers / GIGA
    return _HALF * work.kv(tokens, layers) + _SINGLE * asked


def disk_terms(work: Workload, stage: str) -> dict[str, float]:
    """Quantities that the disk of a stage grows with; `start` is 1, all else in GB or millions of rows."""
    config, size, layers = work.config, work.size, len(work.layers)
    heads = layers * size.heads / 1e6
    measured, held_out = work.measured, work.texts["held_out"]
    found: dict[str, float] = {}
    if stage == "capture":
        texts = [
            count * _captured(work, work.tokens, work.queries[role]) for role, count in work.texts.items()
        ]
        found = {"captured": sum(texts)}
    elif stage == "trace":
        found = {"captured": _captured(work, *work.trace)}
    elif stage == "model":
        found = {"weights": size.stored_bytes / GIGA}
    elif stage == "texts":
        read = ((work.texts["codec"] + measured) * work.tokens + work.trace[0]) / GIGA
        # Texts of listed domains name the documents that they are made of.
        listed = sum(entry["custom"] is None for entry in config.text_names().values())
        found = {"tokens": read, "listed": listed / GIGA}
    elif stage == "sketch":
        sizes = [one for layer in work.layers for one in work.sketched(layer)]
        # A byte of residual norm beside the code.
        coded = sum(one + 1 for one in sizes) * work.tokens * size.kv_heads * measured / GIGA
        found = {"coded": coded, "codecs": len(sizes) * size.kv_heads * size.head_dim**2 / GIGA}
    elif stage == "frontier":
        designs = sum(work.swept(layer) for layer in work.layers) * size.heads
        thetas = sum(grid.count for grid in config.frontier.grids().values()) / 4
        found = {"rows": designs * measured * thetas / 1e6, "points": designs * held_out * work.rules / 1e6}
    elif stage == "calibrated":
        sizes = len({config.frontier.headline.bits, *config.calibrated.bits})
        found = {"rows": heads * held_out * sizes * len(config.calibrated.rules), "heads": heads * held_out}
    elif stage == "peers":
        found = {"rows": heads * held_out * len(config.peers.selectors) * len(config.peers.ratios)}
    elif stage in ("certificates", "hierarchy"):
        found = {"rows": heads * held_out}
        if stage == "certificates":
            late = sum(band.stop > config.frontier.headline_start for band in config.capture.query_bands)
            found |= {"bands": heads * held_out * late}
    elif stage == "decode":
        steps = work.trace[1] / config.decode.bin
        lived = min(config.decode.layers, layers) * size.heads
        found = {"rows": lived * steps / 1e6, "heads": lived / 1e6}
    elif stage == "bandwidth":
        found = {
            "indices": config.bandwidth.measure.patterns
            * min(config.bandwidth.measure.layers, layers)
            * work.tokens
            / GIGA
        }
    elif stage == "synthetic":
        made = config.synthetic
        found = {"rows": len(made.generators) * made.decode.draws * made.decode.steps / 1e6}
        found |= {"generators": len(made.generators) * made.tradeoff.draws / 1e3}
    elif stage == "quality":
        found = {"rows": work.decoded_positions / 1e6}
    elif stage == "retrieval":
        retrieval = config.retrieval
        prompts = sum(one.length * one.contexts for one in retrieval.tasks) / GIGA
        found = {"prompts": prompts}
    elif stage == "reproduce":
        found = {"rows": held_out * len(config.reproduce.recall_at) / 1e6}
    elif stage == "historical":
        found = {"heads": heads * len(config.historical.dimensions)}
    elif stage == "store":
        found = {"kills": (config.store.kill_points + config.store.kill_delays) / GIGA}
    elif stage == "report":
        found = {"png": config.report.png_scale**2, "heads": heads}
    return {START: 1.0, **found}
