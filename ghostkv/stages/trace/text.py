"""Stage `trace`: every query of the last part of one long text, in the order in which a decode asks them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from ghostkv.stages.trace.jobs import TraceText


def trace_text(
    job: TraceText, inputs: Mapping[str, str], outputs: Mapping[str, str], threads: int = 1
) -> None:
    """Run the model over the long text once and record its attention at each of the last `steps` positions.

    A forward pass over the whole text asks the very queries that decoding it token by token would ask, so the trace
    is a teacher-forced decode. Its files are those of a capture (`captures.read_layer`); where it raises, nothing is
    left behind.
    """
    from ghostkv.models.record import record_text

    positions = np.arange(job.tokens - job.steps, job.tokens, dtype=np.int32)
    record_text(job, positions, inputs, outputs, threads)
