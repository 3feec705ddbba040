"""Time on a card: calls captured in a graph, between events, over a second cache that holds none of their data."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

_FLUSHES = 2  # bytes of a flush over those of the second cache


@dataclass
class Clock:
    """A device, when to stop, and how calls on it are timed.

    In Triton's interpreter, on the CPU, every call is made once and has no time.
    """

    device: torch.device
    seconds: float
    repeats: int = 15
    _begun: float = field(default_factory=time.monotonic)
    _flush: torch.Tensor | None = None

    @property
    def interprets(self) -> bool:
        """Whether times are none."""
        return self.device.type == "cpu"

    def left(self) -> float:
        """Seconds until the end of the run."""
        return self.seconds - (time.monotonic() - self._begun)

    def time(self, call: Callable[[], object], graph: bool = True) -> dict:
        """Microseconds of a call on the device: the least and the median, `None` where it is interpreted.

        Parameters
        ----------
        graph : bool
            Whether the call is captured in a CUDA graph and replayed; otherwise its launches count.
        """
        call()
        if self.interprets:
            return {"least_us": None, "median_us": None, "graph": False}
        again = captured(call) if graph else call
        events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(self.repeats)]
        for first, last in events:
            self._empty_cache()
            first.record()
            again()
            last.record()
        torch.cuda.synchronize()
        spent = [1e3 * first.elapsed_time(last) for first, last in events]
        return {"least_us": min(spent), "median_us": statistics.median(spent), "graph": graph}

    def _empty_cache(self) -> None:
        """Fill the second cache with something else. It also keeps the device busy until the next launch has arrived."""
        if self._flush is None:
            size = _FLUSHES * torch.cuda.get_device_properties(self.device).L2_cache_size
            self._flush = torch.empty(size, dtype=torch.uint8, device=self.device)
        self._flush.zero_()


def captured(call: Callable[[], object]) -> Callable[[], None]:
    """A call as a graph, to be replayed; it has run on a side stream before, as capturing wants."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay
