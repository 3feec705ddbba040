"""Headline figures of the chapter on hierarchies."""

from __future__ import annotations

from ghostkv.report.document import HeadlineFigure

_AT = " AS value, count(*) AS n FROM self WHERE role = 'trace' AND context >= 8192 AND mode = 'grown' AND certificate = "
_PROVEN, _BYTES = _AT + "'topk' AND chosen_for_reads", _AT + "'topk' AND chosen_for_bytes"
_STATISTICAL = _AT + "'calibrated'"
_UNDER_HALF = "SELECT avg(CASE WHEN reads_ratio < 0.5 THEN 1.0 ELSE 0.0 END)"


def _figure(name: str, unit: str, query: str, table: str = "heads") -> HeadlineFigure:
    return HeadlineFigure(f"hierarchy.{name}", unit, f"hierarchy.{table}", query)


HEADLINE = (
    _figure(
        "violations",
        "checks",
        "SELECT sum(violations) AS value, sum(checks) AS n FROM self",
        "checks",
    ),
    _figure("heads_reading_under_half_at_8k", "share of heads", _UNDER_HALF + _PROVEN),
    _figure("reads_ratio_at_8k", "of the flat scan's records", "SELECT avg(reads_ratio)" + _PROVEN),
    _figure(
        "heads_cheaper_in_bytes_at_8k",
        "share of heads",
        "SELECT avg(CASE WHEN bytes_ratio < flat_bytes_ratio THEN 1.0 ELSE 0.0 END)" + _BYTES,
    ),
    _figure("statistical_heads_reading_under_half_at_8k", "share of heads", _UNDER_HALF + _STATISTICAL),
    _figure("statistical_fer_at_8k", "of the exact top-k", "SELECT avg(fer)" + _STATISTICAL),
)
