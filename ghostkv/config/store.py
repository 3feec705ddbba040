"""Section `store`: a store of K and V that is killed, damaged and timed."""

from __future__ import annotations

from pydantic import Field, model_validator

from ghostkv.config.base import PositiveInt, Section
from ghostkv.files.errors import ConfigError


class Store(Section):
    """Kills, damage and timings of the store that survivors are read back from."""

    kv_heads: PositiveInt = Field(default=3, description="KV heads of the stores that are tried.")
    head_dim: PositiveInt = Field(default=64, description="Width of a key, and of a value.")
    record_bytes: PositiveInt = Field(default=9, description="Bytes of a ghost record.")
    seed: int = Field(default=0, description="Seed of contents, kill points, damage and survivors.")
    kill_points: PositiveInt = Field(
        default=100,
        description="SIGKILLs at a random byte of what an append workload writes, each on a store of its own.",
    )
    kill_delays: PositiveInt = Field(
        default=60, description="SIGKILLs from outside after a random time, each on a store of its own."
    )
    kill_layers: PositiveInt = Field(
        default=2, description="Layers of the stores that are killed or damaged."
    )
    kill_tokens: PositiveInt = Field(default=96, description="Tokens of the append workload that is killed.")
    kill_segment_tokens: PositiveInt = Field(
        default=8, description="Tokens of a segment there; few, so that many kills meet a segment's end."
    )
    corruptions: PositiveInt = Field(
        default=400, description="Flips, overwritten stretches, zeroed blocks and cuts at random offsets."
    )
    gather_tokens: PositiveInt = Field(
        default=65536, description="Tokens of the store that survivors are read from; warm, one layer."
    )
    batches: list[PositiveInt] = Field(
        default=[16, 64, 256, 1024, 4096], min_length=1, description="Survivors of one head read at once."
    )
    run_tokens: PositiveInt = Field(
        default=16, description="Tokens of a run where survivors are clustered rather than scattered."
    )
    repeats: PositiveInt = Field(
        default=5, description="Repeats of each timing, in turns; the median counts."
    )
    append_layers: PositiveInt = Field(default=30, description="Layers of the store that is appended to.")
    append_batches: list[PositiveInt] = Field(
        default=[1, 16, 64, 256], min_length=1, description="Tokens of one timed append."
    )
    append_tokens: PositiveInt = Field(default=256, description="Tokens appended in each timing.")

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
