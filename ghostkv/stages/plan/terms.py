"""The terms of a job's cost: quantities that grow with config and model, each of which a rate turns into seconds or GB.

Every job also has the term `start`, which is 1: the interpreter, what is imported, and what no other term covers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

START = "start"
# What a machine is measured by decides how fast each term is on it: a start of Python, a matrix product, or passes over memory.
COMPUTED = frozenset({"matmul", "attention", "products", "trained"})


@dataclass(frozen=True)
class Terms:
    """What one process does and holds.

    Attributes
    ----------
    cpu, memory : mapping of str to float
        Quantity by term, in billions (`rows` and `prompts` in millions); `start` is added.
    """

    cpu: Mapping[str, float] = field(default_factory=dict)
    memory: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "cpu", {START: 1.0, **self.cpu})
        object.__setattr__(self, "memory", {START: 1.0, **self.memory})

    @classmethod
    def together(cls, parts: Iterable[Terms]) -> Terms:
        """Several jobs done one after the other in one process, which starts once and holds the largest."""
        parts = list(parts) or [cls()]
        cpu: dict[str, float] = {}
        for part in parts:
            for name, value in part.cpu.items():
                cpu[name] = cpu.get(name, 0.0) + value
        # A model is loaded once for all of them.
        once = {name: max(part.cpu.get(name, 0.0) for part in parts) for name in (START, "weights")}
        memory = {
            name: max(part.memory.get(name, 0.0) for part in parts) for part in parts for name in part.memory
        }
        return cls(cpu | {name: value for name, value in once.items() if name in cpu}, memory)


@dataclass(frozen=True)
class PlannedJobs:
    """Processes of a stage that do the same.

    Attributes
    ----------
    stage : str
    rates : str
        Under which name of `RATES` their rates stand.
    logs : tuple of str
        One a process, which is `logs/{stage}/{log}.log`.
    terms : Terms
        What each of them does.
    """

    stage: str
    rates: str
    logs: tuple[str, ...]
    terms: Terms
