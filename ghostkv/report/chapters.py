"""The report's chapters, in the order in which they are read. A new chapter is a module in `sections/` and a line below."""

from __future__ import annotations

from ghostkv.report.document import Chapter
from ghostkv.report.sections import (
    answer,
    benchmark,
    calibration,
    capture,
    context,
    demo,
    frontier,
    historical,
    layers,
    models,
    power,
    provenance,
    records,
    reproduce,
    retrieval,
    safe_points,
    speed,
)
from ghostkv.report.sections.bandwidth import section as bandwidth
from ghostkv.report.sections.buffer import section as buffer
from ghostkv.report.sections.calibrated import section as calibrated
from ghostkv.report.sections.certificates import section as certificates
from ghostkv.report.sections.decode import section as decode
from ghostkv.report.sections.hierarchy import section as hierarchy
from ghostkv.report.sections.peers import section as peers
from ghostkv.report.sections.quality import section as quality
from ghostkv.report.sections.store import section as store
from ghostkv.report.sections.synthetic import section as synthetic

CHAPTERS: tuple[Chapter, ...] = (
    answer.CHAPTER,
    demo.CHAPTER,
    frontier.CHAPTER,
    records.CHAPTER,
    layers.CHAPTER,
    safe_points.CHAPTER,
    context.CHAPTER,
    calibration.CHAPTER,
    certificates.CHAPTER,
    calibrated.CHAPTER,
    models.CHAPTER,
    peers.CHAPTER,
    quality.CHAPTER,
    hierarchy.CHAPTER,
    decode.CHAPTER,
    buffer.CHAPTER,
    store.CHAPTER,
    historical.CHAPTER,
    reproduce.CHAPTER,
    synthetic.CHAPTER,
    bandwidth.CHAPTER,
    retrieval.CHAPTER,
    capture.CHAPTER,
    benchmark.CHAPTER,
    speed.CHAPTER,
    power.CHAPTER,
    provenance.CHAPTER,
)
