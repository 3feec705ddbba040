"""Section `store`: a store of K and V that is killed, damaged and timed."""

from __future__ import annotations

from pydantic import model_validator

from ghostkv.config.base import (
    CodeBits,
    Counts,
    Heads,
    Layers,
    Repeats,
    Section,
    Seed,
    Tokens,
    setting,
    within_memory,
)
from ghostkv.config.options import Count, Width
from ghostkv.files.errors import ConfigError


class Store(Section):
    """Kills, damage and timings of the store that survivors are read back from."""

    kv_heads: Heads = setting(3, "KV heads of the stores that are tried.")
    head_dim: Width = setting(64, "Width of a key, and of a value.")
    bits: CodeBits = setting(
        1.0, "Bits a coordinate of a ghost record; one byte of residual norm comes on top."
    )
    seed: Seed = setting(0, "Seed of contents, kill points, damage and survivors.")
    kill_points: Count = setting(
        100, "SIGKILLs at a random byte of what is appended, each on a store of its own."
    )
    kill_delays: Count = setting(60, "SIGKILLs after a random time, each on a store of its own.")
    kill_layers: Layers = setting(2, "Layers of the stores that are killed or damaged.")
    kill_tokens: Count = setting(96, "Tokens of the append workload that is killed.")
    kill_segment_tokens: Count = setting(8, "Tokens of a segment there; few, so that kills meet its end.")
    corruptions: Count = setting(400, "Flips, overwritten stretches, zeroed blocks and cuts at random.")
    gather_tokens: Tokens = setting(
        65536, "Tokens of the store that survivors are read from; warm, one layer."
    )
    batches: Counts = setting([16, 64, 256, 1024, 4096], "Survivors of one head read at once.")
    run_tokens: Count = setting(16, "Tokens of a run where survivors are clustered.")
    repeats: Repeats = setting(5, "Repeats of each timing, in turns; the median counts.")
    append_layers: Layers = setting(30, "Layers of the store that is appended to.")
    append_batches: Counts = setting([1, 16, 64, 256], "Tokens of one timed append.")
    append_tokens: Count = setting(256, "Tokens appended in each timing.")

    @model_validator(mode="after")
    def _stores_fit(self) -> Store:
        shape = {"kv_heads": self.kv_heads, "head_dim": self.head_dim}
        within_memory("store", 1 << 29, gather_tokens=self.gather_tokens, **shape)
        within_memory(
            "store", 1 << 29, append_tokens=self.append_tokens, append_layers=self.append_layers, **shape
        )
        within_memory("store", 1 << 27, kill_tokens=self.kill_tokens, kill_layers=self.kill_layers, **shape)
        return self

    @model_validator(mode="after")
    def _survivors_are_fewer_than_tokens(self) -> Store:
        if max(self.batches) >= self.gather_tokens:
            raise ConfigError(
                f"config: store.batches asks for {max(self.batches)} survivors, but the store has "
                f"{self.gather_tokens} tokens (store.gather_tokens). Accepted: fewer than that.\n"
                f"  Write: gather_tokens: {4 * max(self.batches)}"
            )
        if self.kill_tokens < 4 * self.kill_segment_tokens:
            raise ConfigError(
                f"config: store.kill_tokens is {self.kill_tokens}, too few to fill segments of "
                f"{self.kill_segment_tokens} tokens (store.kill_segment_tokens) while kills fall. Accepted: "
                f"{4 * self.kill_segment_tokens} or more.\n  Write: kill_tokens: {4 * self.kill_segment_tokens}"
            )
        return self
