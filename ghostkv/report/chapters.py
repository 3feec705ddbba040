"""The report's chapters, in the order in which they are read. A new chapter is a module in `sections/` and a line below."""

from __future__ import annotations

from ghostkv.report.document import Section
from ghostkv.report.sections import (
    answer,
    benchmark,
    calibration,
    capture,
    context,
    frontier,
    historical,
    layers,
    provenance,
    records,
    retrieval,
    safe_points,
    targets,
)
from ghostkv.report.sections.bandwidth import section as bandwidth
from ghostkv.report.sections.calibrated import section as calibrated
from ghostkv.report.sections.certificates import section as certificates
from ghostkv.report.sections.decode import section as decode
from ghostkv.report.sections.hierarchy import section as hierarchy
from ghostkv.report.sections.peers import section as peers
from ghostkv.report.sections.quality import section as quality
from ghostkv.report.sections.store import section as store
from ghostkv.report.sections.synthetic import section as synthetic

SECTIONS: tuple[Section, ...] = (
    answer.SECTION,
    targets.SECTION,
    frontier.SECTION,
    records.SECTION,
    layers.SECTION,
    safe_points.SECTION,
    context.SECTION,
    calibration.SECTION,
    certificates.SECTION,
    calibrated.SECTION,
    peers.SECTION,
    quality.SECTION,
    hierarchy.SECTION,
    decode.SECTION,
    store.SECTION,
    historical.SECTION,
    synthetic.SECTION,
    bandwidth.SECTION,
    retrieval.SECTION,
    capture.SECTION,
    benchmark.SECTION,
    provenance.SECTION,
)
