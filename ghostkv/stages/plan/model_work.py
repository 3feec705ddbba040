"""What the jobs that run the model do: forward passes, decoding under policies, questions."""

from __future__ import annotations

from collections.abc import Iterable

from ghostkv.config.policies import PolicyOptions
from ghostkv.config.quality import Quality, QualityEntry, text_parts
from ghostkv.config.retrieval import TaskEntry
from ghostkv.stages.plan.terms import Terms
from ghostkv.stages.plan.workload import GIGA, Workload

# Tokens of a question with its answer, about: what a policy reads of a prompt beside the dense context.
_ASKED = 64
# Tokens that the demonstration writes, twice.
_WRITTEN = 128
# Tokens of a context that are read at once before steps are timed.
_PIECE = 1024


def fetch_model(work: Workload) -> Terms:
    # One look at every weight, in the type that they are kept in; the model is loaded once to be checked.
    return Terms(
        {"weights": work.size.parameters / GIGA, "vocabulary": work.size.vocabulary / 1e6},
        {"weights": work.size.stored_bytes / GIGA},
    )


def _forward(work: Workload, tokens: int, queries: int, times: float = 1.0) -> Terms:
    """Passes over a text, recorded and proved at the sampled queries; in chunks, over a cache."""
    chunk = work.config.capture.chunk
    # In chunks, a sliding layer reads its window and the chunk; of those that are recorded all keys and values are kept.
    spans = [work.span(layer, tokens, chunk or tokens) for layer in range(work.size.layers)]
    slides = [layer for layer in work.layers if work.span(layer, tokens) < tokens]
    kept = sum(spans) + len(slides) * tokens
    cache = work.cache(kept) / work.size.layers if chunk else 0.0
    proof = work.attention(tokens, min(queries, 512), [tokens] * len(work.layers))
    return Terms(
        {
            "weights": work.weights,
            "matmul": times * work.matmul(tokens),
            "attention": times * (work.attention(tokens, spans=spans) + proof),
        },
        {
            "weights": work.weights + cache,
            "hidden": work.hidden(min(tokens, chunk or tokens)),
            "vocabulary": work.size.vocabulary / 1e6,
        },
    )


def capture_text(work: Workload, text: str = "") -> Terms:
    return _forward(work, work.tokens, work.queries[work.role_of(text)])


def trace_text(work: Workload) -> Terms:
    return _forward(work, *work.trace)


def capture_overhead(work: Workload) -> Terms:
    benchmark = work.config.benchmark
    # A first pair warms up.
    return _forward(work, benchmark.tokens or work.tokens, work.queries["codec"], 2 * benchmark.repeats + 2)


def _fit(work: Workload, policies: Iterable[PolicyOptions]) -> Terms:
    """Thresholds of policies that name a bytes ratio, over all layers of the threshold texts."""
    if not any(one.policy == "ghost" and one.ratio is not None for one in policies):
        return Terms()
    pairs = work.pairs(work.late("threshold"), work.tokens)
    return Terms(
        {"pairs": min(len(work.layers), work.deciding) * pairs},
        {
            "kv": work.texts["threshold"] * work.kv(work.tokens),
            "pairs": work.pairs(work.late_queries["threshold"], work.tokens, work.group),
        },
    )


def fit_quality(work: Workload) -> Terms:
    """All budgets over a cache type in one pass over the threshold texts, and one for each policy that may leave heads dense."""
    policies = work.config.quality.policies
    caches = {one.cache for one in policies if one.policy == "ghost" and one.ratio is not None}
    passes = len(caches) + sum(one.policy == "calibrated" for one in policies)
    terms = _fit(work, policies)
    return Terms({name: max(passes, 1) * each for name, each in terms.cpu.items()}, terms.memory)


def _asked(work: Workload, text: str) -> Quality:
    return work.config.quality.of_text(int(text.rpartition("_")[2]))


def _positions(work: Workload, text: str) -> int:
    """Positions of a text that are decoded under policies, one after the other or side by side."""
    quality = _asked(work, text)
    whole = {
        one.label: min(one.positions or quality.continuation, quality.continuation)
        for one in quality.policies
    }
    ablation, bands = quality.ablation, -(-work.size.layers // quality.ablation.band)
    ablated = min(ablation.positions, quality.continuation) * bands if ablation.policy else 0
    return sum(whole.values()) + ablated + 3 * quality.generation.tokens * len(quality.generation.policies)


def _decoded(work: Workload, context: int, positions: int, caches: int = 1) -> Terms:
    pairs = work.pairs(positions, context) * work.deciding
    return Terms(
        {
            "weights": work.weights,
            "matmul": work.matmul(context + positions),
            "attention": work.attention(context),
            "pairs": pairs,
        },
        {"weights": work.weights, "cache": caches * work.cache(context)},
    )


def quality_texts(work: Workload, part: str = "") -> Terms:
    """Some texts in one process; without a name, the first of a domain."""
    held_out = [name for name, entry in work.config.text_names().items() if entry["role"] == "held_out"]
    return Terms.together(_quality_text(work, text) for text in text_parts(held_out).get(part, ("0",)))


def _quality_text(work: Workload, text: str) -> Terms:
    # The context is what was captured, but where a policy must watch it being read.
    capture, policies = work.config.capture, _asked(work, text).policies
    captured = capture.cache_dtype == "float16" and len(work.layers) == work.size.layers
    read = 0 if captured and not _observing(policies) else work.tokens
    positions = _positions(work, text)
    terms = _decoded(work, work.tokens, positions, 2)
    cpu = terms.cpu | {"matmul": work.matmul(read + positions), "attention": work.attention(read)}
    return Terms(cpu, terms.memory)


def time_steps(work: Workload) -> Terms:
    steps = work.config.speed.steps
    if not steps.contexts:
        return Terms()
    longest = steps.contexts[-1]
    # A context is read in pieces, of which a sliding layer sees its window and the piece.
    spans = [work.span(layer, longest, _PIECE) for layer in range(work.size.layers)]
    # Each of four ways reads the weights at each step, and two more at first.
    decoded = 4 * len(steps.contexts) * len(steps.dtypes) * (steps.count + 2)
    return Terms(
        {
            "weights": work.weights,
            "matmul": work.matmul(longest),
            "attention": work.attention(longest, spans=spans),
            "decoded": decoded * work.weights,
            "pairs": work.pairs(decoded, longest) * work.deciding,
            # Codecs are fitted here, and the threshold.
            "fitted": work.deciding * work.size.kv_heads * work.size.head_dim**2 / 1e6,
            "budget": work.pairs(work.late_queries["threshold"], work.tokens) * work.deciding,
        },
        {"weights": work.weights, "cache": 4 * work.cache(sum(spans)) / work.size.layers},
    )


def demo_writing(work: Workload) -> Terms:
    """Greedy continuations of the demonstration, dense and under a policy."""
    return _decoded(work, work.tokens, 2 * _WRITTEN, 3)


def gather_quality(work: Workload) -> Terms:
    quality = work.config.quality
    rows = work.decoded_positions
    return Terms({"draws": quality.replicates * rows / GIGA}, {"rows": rows / 1e6})


def retrieval_plan(work: Workload) -> Terms:
    terms = _fit(work, work.config.retrieval.policies)
    prompts = sum(_contexts(work, entry) * entry.length for entry in work.config.retrieval.tasks)
    return Terms({**terms.cpu, "prompts": prompts / 1e6}, terms.memory)


def _contexts(work: Workload, entry: TaskEntry) -> int:
    """Questions of a task: a needle a depth, or those that share a context."""
    if entry.task.startswith("niah_single"):
        return entry.contexts * len(work.config.retrieval.depths)
    return entry.contexts * (4 if entry.task.startswith("niah_multikey") else 1)


def _read(work: Workload, entry: TaskEntry) -> float:
    """Contexts that are read as a whole, about: one with its needle higher up shares what stands before it."""
    if not entry.task.startswith("niah_single"):
        return float(entry.contexts)
    depths = sorted(work.config.retrieval.depths, reverse=True)
    return entry.contexts * (1 + sum(1 - depth for depth in depths[1:]))


def _observing(policies: list[QualityEntry]) -> int:
    """Policies that read a context for themselves, as they look on while it is read."""
    named = (getattr(getattr(one, "selector", None), "name", "") for one in policies)
    return sum(name in ("snapkv", "h2o") for name in named)


def retrieval_task(work: Workload, job: str) -> Terms:
    retrieval, entry = work.config.retrieval, work.config.retrieval.jobs()[job]
    policies = [one for one in retrieval.policies if one.answers(entry)]
    questions, read = _contexts(work, entry), _read(work, entry)
    read += _observing(policies) * questions / max(1, entry.contexts)
    asked = sum(questions * min(1.0, (one.contexts or entry.contexts) / entry.contexts) for one in policies)
    tokens = read * entry.length + (1 + asked) * _ASKED
    return Terms(
        {
            "weights": work.weights,
            "matmul": work.matmul(round(tokens)),
            "attention": read * work.attention(entry.length),
            "pairs": work.pairs(round(asked * _ASKED), entry.length) * work.deciding,
        },
        {"weights": work.weights, "cache": work.cache(entry.length)},
    )


def run_historical(work: Workload) -> Terms:
    historical = work.config.historical
    read = historical.passage_tokens + historical.prompts * max(historical.prompt_tokens)
    pairs = (work.texts["held_out"] * work.tokens + historical.passage_tokens) * historical.long_queries
    return Terms(
        {
            "weights": work.weights,
            "matmul": work.matmul(read),
            "pairs": pairs * work.size.heads * len(work.layers) / GIGA,
        },
        {
            "weights": work.weights,
            "kv": (work.texts["held_out"] + work.texts["codec"]) * work.kv(work.tokens),
            "rebuilt": work.kv(historical.passage_tokens, len(work.layers)),
        },
    )
