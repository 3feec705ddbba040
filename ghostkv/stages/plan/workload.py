"""What a run has to do, in numbers: the quantities that every formula of a plan is made of.

Functions of the config and of the model's size alone, so that they are the same before a run and after it. Snakemake reads
them for every job: nothing slow is imported.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from ghostkv.codecs.sizes import code_bytes
from ghostkv.config.capture import QueryBand
from ghostkv.config.experiment import Config
from ghostkv.sources.model_size import ModelSize

# Formulas count in billions: of multiplications, of bytes, of pairs of a query and a key.
GIGA = 1e9
# The roles of texts that thresholds are chosen on, or that are measured.
MEASURED = ("threshold", "held_out")


@dataclass(frozen=True)
class Workload:
    """A run as a plan sees it.

    Attributes
    ----------
    config : Config
    layers : tuple of int
        Layers to measure.
    size : ModelSize
    max_context : int or None
        Longest context that the model takes.
    """

    config: Config
    layers: tuple[int, ...]
    size: ModelSize
    max_context: int | None = None

    @cached_property
    def texts(self) -> dict[str, int]:
        """Texts by role."""
        found = dict.fromkeys(("codec", *MEASURED), 0)
        for entry in self.config.text_names().values():
            found[entry["role"]] += 1
        return found

    def role_of(self, text: str) -> str:
        """Role of a text by name; without one, a role that takes all queries."""
        return self.config.text_names()[text]["role"] if text else "codec"

    @property
    def measured(self) -> int:
        """Texts of the roles threshold and held_out."""
        return sum(self.texts[role] for role in MEASURED)

    @property
    def tokens(self) -> int:
        """Tokens of context per text."""
        return self.config.capture.tokens

    @cached_property
    def trace(self) -> tuple[int, int]:
        """Tokens and steps of the trace; nothing where tensors are imported."""
        for entry in self.config.trace_text(self.max_context).values():
            return entry["tokens"], entry["steps"]
        return 0, 0

    @cached_property
    def queries(self) -> dict[str, int]:
        """Queries per head of a text, by role."""
        return {role: sum(band.count for band in self.config.query_bands(role)) for role in self.texts}

    @cached_property
    def late_queries(self) -> dict[str, int]:
        """Those of them at or beyond `frontier.headline_start`, about."""
        start = self.config.frontier.headline_start

        def late(band: QueryBand) -> float:
            return band.count * max(0, band.stop - max(band.start, start)) / (band.stop - band.start)

        return {role: round(sum(map(late, self.config.query_bands(role)))) for role in self.texts}

    def late(self, *roles: str) -> int:
        """Late queries per head of all texts of these roles."""
        return sum(self.texts[role] * self.late_queries[role] for role in roles)

    @property
    def decoded_positions(self) -> int:
        """Positions of all held-out texts that stage `quality` decodes, policy by policy."""
        quality = self.config.quality
        numbers = [
            int(name.rpartition("_")[2])
            for name, entry in self.config.text_names().items()
            if entry["role"] == "held_out"
        ]
        return sum(
            min(one.positions or quality.continuation, quality.continuation)
            for number in numbers
            for one in quality.of_text(number).policies
        )

    @property
    def group(self) -> int:
        """Query heads to a KV head."""
        return max(1, self.size.heads // self.size.kv_heads)

    def kv(self, tokens: int, layers: int = 1) -> float:
        """Keys and values of so many tokens, in billions of numbers."""
        return 2 * tokens * self.size.kv_heads * self.size.head_dim * layers / GIGA

    def seen(self, queries: int, layer: str, heads: int | None = None) -> float:
        """As `pairs`, of a layer that may see the last tokens of a text alone."""
        return self.pairs(queries, self.span(int(layer), self.tokens), heads)

    def pairs(self, queries: int, tokens: int, heads: int | None = None) -> float:
        """(query, key) pairs of a layer, in billions; of one group where `heads` says so."""
        return queries * tokens * (self.size.heads if heads is None else heads) / GIGA

    def matmul(self, tokens: int) -> float:
        """Multiplications of so many tokens with the weights of all layers, in billions."""
        return self.size.active * tokens / GIGA

    def span(self, layer: int, tokens: int, more: int = 0) -> int:
        """Of so many tokens, those that a query at their end sees in a layer; of a window, `more` than it holds."""
        window = self.size.windows[layer] if self.size.windows else 0
        return min(window + more if window else tokens, tokens)

    @property
    def deciding(self) -> int:
        """Layers in which policies decide: those that slide stay dense."""
        return self.size.layers - sum(map(bool, self.size.windows))

    def attention(self, tokens: int, queries: int | None = None, spans: Iterable[int] | None = None) -> float:
        """Multiplications of attention, q.k and mass.v, in billions; of all tokens, or of the last `queries`.

        Parameters
        ----------
        spans : iterable of int, optional
            Tokens that a query sees, layer by layer; by default all, in all layers.
        """
        spans = [tokens] * self.size.layers if spans is None else spans
        pairs = sum((tokens - span / 2 if queries is None else queries) * span for span in spans)
        return 2 * pairs * self.size.head_dim * self.size.heads / GIGA

    @property
    def weights(self) -> float:
        """GB of weights as the forward pass holds them."""
        return self.size.parameters * (4 if self.config.model.dtype == "float32" else 2) / GIGA

    def hidden(self, tokens: int) -> float:
        """GB of one hidden state of so many tokens, as float32."""
        return 4 * tokens * self.size.width / GIGA

    def cache(self, tokens: int) -> float:
        """GB of a KV cache of all layers."""
        held = 4 if self.config.model.dtype == "float32" else 2
        return held * self.kv(tokens, self.size.layers)

    def compared(self, layer: int) -> bool:
        """Whether every codec is sketched and swept in a layer."""
        return layer in self.layers[:: self.config.sketch.compared_every]

    def sketched(self, layer: int) -> list[int]:
        """Bytes of code of each codec that is sketched in a layer."""
        name = self.config.frontier.headline.codec
        codecs = [codec for codec in self.config.sketch.codecs if self.compared(layer) or codec.name == name]
        return [code_bytes(bits, self.size.head_dim) for codec in codecs for bits in codec.bits]

    def swept(self, layer: int) -> int:
        """Designs that are swept in a layer, the oracle among them."""
        return 1 + (len(self.sketched(layer)) if self.compared(layer) else 1)

    @property
    def rules(self) -> int:
        """Threshold rules that are swept."""
        return len(self.config.frontier.grids())
