"""Stage `capture`: one model's attention on one text, or a lab's own tensors, as a capture folder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ghostkv.captures.positions import sample_positions

if TYPE_CHECKING:
    from ghostkv.stages.capture.jobs import CaptureText


def capture_text(
    job: CaptureText, inputs: Mapping[str, str], outputs: Mapping[str, str], threads: int = 1
) -> None:
    """Run the model over one text and record its attention, with so many torch threads.

    Where it raises (ModelError, TextError, CaptureError) nothing is left behind: the files appear only when every
    layer has passed its proof.
    """
    from ghostkv.models.record import record_text

    positions = sample_positions(job.query_bands, job.text, job.seed)
    record_text(job, positions, inputs, outputs, threads)
