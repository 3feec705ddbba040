"""What jobs cost: their terms times the rates that were fitted on finished runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ghostkv.stages.plan.rates import DISK, RATES
from ghostkv.stages.plan.terms import COMPUTED, START, Terms


@dataclass(frozen=True)
class Speeds:
    """How long things take on a machine, over what they took on the one that rates were fitted on."""

    start: float = 1.0
    compute: float = 1.0
    memory: float = 1.0

    def of(self, term: str) -> float:
        """By what the seconds of a term are multiplied."""
        return self.start if term == START else self.compute if term in COMPUTED else self.memory


@dataclass(frozen=True)
class Cost:
    """What one process takes: CPU seconds, and GB of memory at most."""

    cpu_seconds: float
    memory_gb: float


def cost_of(rates: str, terms: Terms, speeds: Speeds = Speeds()) -> Cost:
    """What a process takes on a machine of these speeds; `rates` is a name of `RATES`.

    A term without a rate costs nothing that could be measured.
    """
    own = RATES[rates]
    cpu = sum(own["cpu"].get(name, 0.0) * value * speeds.of(name) for name, value in terms.cpu.items())
    return Cost(cpu, sum(own["memory"].get(name, 0.0) * value for name, value in terms.memory.items()))


def disk_gb(stage: str, terms: Mapping[str, float]) -> float:
    """GB that a stage leaves on disk, by its terms (`ghostkv.stages.plan.disk`)."""
    return sum(DISK[stage].get(name, 0.0) * value for name, value in terms.items())
