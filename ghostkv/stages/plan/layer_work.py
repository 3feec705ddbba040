"""What the jobs do that run no model: a layer at a time, generated tensors, this machine's memory, the store, the report."""

from __future__ import annotations

from ghostkv.files.blocks import PAIRS
from ghostkv.stages.plan.terms import Terms
from ghostkv.stages.plan.workload import GIGA, MEASURED, Workload

# Bounds of a nested record are kept for all of its levels, lower and upper, with the powers of both.
_BOUNDS = 4


def assemble_texts(work: Workload) -> Terms:
    read = (work.texts["codec"] + work.measured) * work.tokens + work.trace[0]
    domains = float(len(work.config.texts.domains))
    words = work.size.vocabulary / 1e6
    memory = {
        "tokens": max(work.tokens, work.trace[0]) / 1e6,
        "domains": min(domains, 1.0),
        "vocabulary": words,
    }
    return Terms({"tokens": read / 1e6, "domains": domains, "vocabulary": words}, memory)


def import_tensors(work: Workload, text: str = "") -> Terms:
    kv = work.kv(work.tokens)
    queries = work.queries[work.role_of(text)]
    return Terms({"kv": len(work.layers) * kv, "pairs": work.pairs(queries, work.tokens)}, {"kv": kv})


def sketch_layer(work: Workload, layer: str) -> Terms:
    sizes = work.sketched(int(layer))
    coded = work.kv(work.tokens) * (work.texts["codec"] + work.measured) * len(sizes)
    written = work.tokens * work.size.kv_heads * sum(sizes) / GIGA
    held = (work.texts["codec"] + 1) * work.kv(work.tokens)
    return Terms({"coded": coded, "fitted": _fitted(work, len(sizes))}, {"kv": held, "written": written})


def _fitted(work: Workload, designs: int) -> float:
    """Numbers of the frames that a layer's designs are fitted with, one a KV head, in millions."""
    return designs * work.size.kv_heads * work.size.head_dim**2 / 1e6


def _held(work: Workload, queries: int, layer: str) -> float:
    """Pairs of a group that are held at once, in billions: a block of queries of one text."""
    return min(work.seen(queries, layer, work.group), PAIRS / GIGA)


def _late_held(work: Workload, layer: str) -> float:
    """As `_held`, of all texts that are measured."""
    return sum(work.texts[role] * _held(work, work.late_queries[role], layer) for role in MEASURED)


def _products(work: Workload, pairs: float) -> float:
    """Multiplications of queries with keys, or with what is known of them, in billions."""
    return pairs * work.size.head_dim


def sweep_layer(work: Workload, layer: str) -> Terms:
    pairs = work.seen(work.late(*MEASURED), layer)
    whole = work.texts["held_out"] * work.seen(work.queries["held_out"], layer)
    designs = work.swept(int(layer))
    thetas = sum(grid.count for grid in work.config.frontier.grids().values())
    counted = work.late(*MEASURED) * work.size.heads * thetas * designs
    return Terms(
        {
            "pairs": pairs * designs * work.rules,
            "bands": 2 * whole,
            "counted": counted / GIGA,
            "products": _products(work, pairs * designs),
        },
        {
            "kv": work.measured * work.kv(work.tokens),
            "pairs": _late_held(work, layer)
            + work.texts["held_out"] * _held(work, work.queries["held_out"], layer),
        },
    )


def _rows(work: Workload) -> float:
    """Rows of the sweep's tables, in millions."""
    designs = sum(work.swept(layer) for layer in work.layers)
    thetas = sum(grid.count for grid in work.config.frontier.grids().values()) / 4
    return designs * work.size.heads * work.measured * thetas / 1e6


def gather(work: Workload) -> Terms:
    return Terms({"rows": _rows(work)}, {"rows": _rows(work)})


def summarise_heads(work: Workload) -> Terms:
    return gather(work)


def small_gather(work: Workload) -> Terms:
    """Of stages whose tables have few rows."""
    heads = len(work.layers) * work.size.heads * work.texts["held_out"] / 1e3
    return Terms({"heads": heads}, {"heads": heads})


def certify_layer(work: Workload, layer: str) -> Terms:
    certificates = work.config.certificates
    levels = len(certificates.levels)
    one = work.seen(work.late("held_out"), layer)
    compared = (len(certificates.bounds) + 2) / certificates.compared_every
    return Terms(
        {
            # Each dropped mass is decided by heads and by groups.
            "pairs": one * levels * (1 + 2 * len(certificates.deltas)),
            "compared": one * compared,
            "products": _products(work, one * levels),
            "fitted": _fitted(work, levels),
        },
        {
            "kv": (work.texts["codec"] + work.texts["held_out"]) * work.kv(work.tokens),
            "pairs": _BOUNDS * levels * _held(work, work.late_queries["held_out"], layer),
        },
    )


def calibrate_layer(work: Workload, layer: str) -> Terms:
    calibrated, headline = work.config.calibrated, work.config.frontier.headline
    sizes = len({headline.bits, *calibrated.bits})
    rules = len({headline.rule, *calibrated.rules})
    pairs = work.pairs(work.late(*MEASURED), work.tokens)
    learned = calibrated.learned
    trains = learned.every is not None and int(layer) % learned.every == 0
    steps = trains * learned.steps * work.size.kv_heads
    trained = steps * learned.queries * learned.keys * work.size.head_dim / GIGA
    return Terms(
        {
            "pairs": pairs * sizes * rules,
            "products": _products(work, pairs * sizes),
            "trained": trained,
            "fitted": _fitted(work, sizes),
        },
        {
            "kv": (work.texts["codec"] + work.measured) * work.kv(work.tokens),
            "pairs": _late_held(work, layer),
            "trains": float(trains),
        },
    )


def peers_layer(work: Workload, layer: str) -> Terms:
    pairs, selectors = work.pairs(work.late(*MEASURED), work.tokens), len(work.config.peers.selectors)
    return Terms(
        {"pairs": pairs * selectors, "fitted": _fitted(work, selectors)},
        {
            "kv": (work.texts["codec"] + work.measured) * work.kv(work.tokens),
            "pairs": work.pairs(work.late(*MEASURED), work.tokens, work.group),
        },
    )


def hierarchy_layer(work: Workload, layer: str) -> Terms:
    hierarchy, trace = work.config.hierarchy, work.trace[0]
    every = int(layer) % hierarchy.compare_every == 0
    indexes, levels = len(hierarchy.indexes), len(work.config.certificates.levels)
    # Held-out texts are looked at at three lengths; threshold texts once, all indexes on the first.
    scanned = work.texts["held_out"] * 1.75 * work.tokens * hierarchy.queries / 2 * 2
    scanned += (work.texts["threshold"] + indexes / 2) * work.tokens * hierarchy.queries
    scanned += trace * hierarchy.queries * (3 + every * indexes)
    built = work.texts["held_out"] * 1.75 * work.tokens * 2 + work.tokens * (
        indexes + work.texts["threshold"]
    )
    built += trace * (3 + every * indexes)
    held = (work.texts["codec"] + work.measured) * work.kv(work.tokens) + work.kv(trace)
    return Terms(
        {
            "pairs": scanned * work.size.heads / GIGA,
            "built": work.kv(round(built)),
            "fitted": _fitted(work, indexes),
        },
        {
            "kv": held,
            "pairs": _BOUNDS * levels * work.pairs(hierarchy.queries, max(trace, work.tokens), work.group),
            "every": float(every) * work.kv(trace),
        },
    )


def _decode(tokens: int, steps: int, heads: int, kv_heads: int, budgets: float) -> dict[str, float]:
    return {"pairs": steps * tokens * heads / GIGA, "lived": steps * tokens * kv_heads * budgets / GIGA}


def decode_layer(work: Workload, layer: str) -> Terms:
    tokens, steps = work.trace
    decode, size = work.config.decode, work.size
    chosen = spread(work.layers, decode.layers)
    budgets = 1 + len(decode.budgets) * min(decode.budget_heads, size.kv_heads) / size.kv_heads
    cpu = _decode(tokens, steps, size.heads, size.kv_heads, budgets)
    stored = int(layer) == chosen[len(chosen) // 2]
    return Terms(
        cpu | {"stored": stored * steps * size.kv_heads * tokens / GIGA},
        {"kv": work.kv(tokens), "pairs": steps * tokens * size.kv_heads / GIGA},
    )


def time_overlap(work: Workload) -> Terms:
    tokens, steps = work.trace[0], min(work.config.decode.overlap.steps, work.trace[1])
    overlap, size = work.config.decode.overlap, work.size
    # Rows that are read or attended, at most: each step once, and each timed one in every round, past the page cache and not.
    times = steps * (1 + 12 * overlap.rounds / overlap.every) * len(overlap.buffers)
    pairs = steps * tokens / GIGA
    return Terms(
        {"pairs": pairs * size.heads, "read": times * tokens * size.kv_heads * size.head_dim / GIGA},
        {"kv": work.kv(tokens), "pairs": pairs * size.kv_heads},
    )


def decode_synthetic(work: Workload) -> Terms:
    made, decode = work.config.decode.synthetic, work.config.decode
    cpu = _decode(made.tokens, made.steps, made.group, 1, 1 + len(decode.budgets))
    cpu = {name: value * len(made.generators) for name, value in cpu.items()}
    return Terms(cpu, {"pairs": made.group * made.steps * made.tokens / GIGA})


def synthetic_generator(work: Workload, generator: str = "") -> Terms:
    made = work.config.synthetic
    designs = sum(len(codec.bits) for codec in made.codecs)
    sizes = max(len(codec.bits) for codec in made.codecs)
    audit = made.audit.draws * made.audit.queries * made.tokens * designs
    traded = made.tokens * designs + sum(made.tradeoff.contexts) * sizes
    trade = made.tradeoff.draws * made.tradeoff.queries * traded
    decode = made.decode.draws * made.decode.steps * (made.decode.start + made.decode.steps / 2)
    longest = max(made.tokens, *made.tradeoff.contexts)
    return Terms(
        {"pairs": made.group * (audit + trade) / GIGA, "decoded": made.group * decode / GIGA},
        {"pairs": made.group * max(made.tradeoff.queries, made.audit.queries) * longest / GIGA},
    )


def survivor_patterns(work: Workload) -> Terms:
    layers = min(work.config.bandwidth.measure.layers, len(work.layers))
    queries = work.queries["held_out"]
    pairs = work.texts["held_out"] * work.pairs(queries, work.tokens)
    return Terms(
        {"pairs": layers * pairs},
        {"kv": work.kv(work.tokens), "pairs": work.pairs(queries, work.tokens, work.group)},
    )


def cache_losses(work: Workload) -> Terms:
    caches = work.config.bandwidth.caches
    times = min(caches.layers, len(work.layers)) * work.texts["held_out"]
    read = len(caches.whole) + len(caches.under) * (1 + len(caches.thetas))
    pairs = work.pairs(caches.queries, work.tokens)
    written = (len(caches.whole) + len(caches.under)) * work.kv(work.tokens)
    return Terms(
        {"pairs": times * read * pairs, "coded": times * written},
        {"kv": work.kv(work.tokens), "pairs": work.pairs(caches.queries, work.tokens, work.group)},
    )


def measure_memory(work: Workload) -> Terms:
    measure = work.config.bandwidth.measure
    moved = (measure.memory_mb + measure.file_mb) * measure.rounds * len(measure.row_bytes) / 1e3
    timed = (
        measure.rounds * measure.repeats * len(measure.shares) * len(measure.row_bytes) * measure.gather_mb
    )
    return Terms({"moved": moved, "timed": timed / 1e3}, {"held": measure.memory_mb / 1e3})


def model_bandwidth(work: Workload) -> Terms:
    return Terms({"contexts": float(len(work.config.bandwidth.contexts))})


def sweep_speed(work: Workload) -> Terms:
    benchmark = work.config.benchmark
    pairs = benchmark.queries * benchmark.keys / GIGA
    return Terms({"pairs": pairs * benchmark.repeats * len(benchmark.thetas)}, {"pairs": pairs})


def time_layers(work: Workload) -> Terms:
    speed = work.config.speed
    # K and V of every context in float32 and bfloat16; each round reads them dense in four ways and once more.
    held = [
        2 * shape.kv_heads * shape.head_dim * tokens / GIGA
        for shape in speed.shapes
        for tokens in shape.contexts
    ]
    rounds = speed.rounds * len(speed.thread_counts)
    kv = (work.texts["codec"] + 1) * work.kv(work.tokens)
    return Terms({"read": sum(held) * rounds, "made": sum(held)}, {"held": max(held, default=0.0), "kv": kv})


def store_trials(work: Workload) -> Terms:
    store = work.config.store
    return Terms({"kills": (store.kill_points + store.kill_delays) / 1e3, "damaged": store.corruptions / 1e3})


def store_speed(work: Workload) -> Terms:
    store = work.config.store
    held = store.gather_tokens * store.kv_heads * store.head_dim * 2 / GIGA
    appended = store.append_tokens * store.append_layers * len(store.append_batches) * store.repeats / 1e6
    return Terms({"kv": held * store.repeats, "appended": appended}, {"kv": held})


def report(work: Workload) -> Terms:
    return gather(work)


def spread(layers: tuple[int, ...], count: int) -> tuple[int, ...]:
    """So many of the layers, evenly spaced, as `Run.spread_layers` has them."""
    count = min(count, len(layers))
    return tuple(layers[step * (len(layers) - 1) // max(1, count - 1)] for step in range(count))
