"""Charts as they live in the page: one specification for the still picture and for Vega-Lite in the browser."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import altair as alt
import vl_convert

from ghostkv.report.document import Figure
from ghostkv.report.theme import configure

# The selection that a legend makes; the page lets the same name stand out in every chart.
CHOSEN = "chosen"
_FAINT = 0.12


@dataclass(frozen=True)
class LiveChart:
    """A chart in Vega-Lite, and the names that can stand out in it.

    Attributes
    ----------
    spec : dict
    field : str or None
        The column that its colours tell apart; None where none can stand out.
    names : list of str
    """

    spec: dict[str, Any]
    field: str | None
    names: list[str]

    @classmethod
    def of(cls, figure: Figure) -> LiveChart:
        """The chart in the lab's look. Where colours are names, the one chosen in a legend stands out."""
        # A model of many heads has more marks than Altair's usual limit of 5,000, which guards notebooks.
        with alt.data_transformers.enable("default", max_rows=None):
            spec = _rounded(configure(figure.chart).to_dict())
        coloured = [unit for unit in _units(spec) if _named(unit)]
        fields = {unit["encoding"]["color"]["field"] for unit in coloured}
        if len(fields) != 1:
            return cls(spec, None, [])
        (field,) = fields
        legends = [unit for unit in coloured if unit["encoding"]["color"].get("legend", True)]
        select = {"type": "point", "fields": [field]}
        chooser = {"name": CHOSEN, "select": select} | ({"bind": "legend"} if legends else {})
        (legends or coloured)[0].setdefault("params", []).append(chooser)
        for unit in coloured:
            unit["encoding"].setdefault("opacity", _opacity(unit["mark"]))
        return cls(spec, field, coloured[0]["encoding"]["color"]["scale"]["domain"])


def _opacity(mark: str | dict[str, Any]) -> dict[str, Any]:
    own = mark.get("opacity", 1.0) if isinstance(mark, dict) else 1.0
    return {"condition": {"param": CHOSEN, "value": own}, "value": _FAINT * own}


def _named(unit: Mapping[str, Any]) -> bool:
    """Whether colours are names of a list that the chart states."""
    colour = unit["encoding"].get("color", {})
    domain = (colour.get("scale") or {}).get("domain") or [None]
    return colour.get("type") == "nominal" and all(isinstance(name, str) for name in domain)


def _units(spec: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Every single view of a chart, in the order in which they are drawn."""
    if "mark" in spec and "encoding" in spec:
        yield spec
    for parts in ("layer", "concat", "hconcat", "vconcat"):
        for part in spec.get(parts, ()):
            yield from _units(part)
    if "spec" in spec:
        yield from _units(spec["spec"])


def _rounded(specification: Any) -> Any:
    """The same chart with numbers of nine significant digits.

    Polars adds in whatever order its threads finish, so last digits differ between runs; files should not.
    """
    if isinstance(specification, dict):
        return {name: _rounded(part) for name, part in specification.items()}
    if isinstance(specification, list):
        return [_rounded(part) for part in specification]
    return float(f"{specification:.9g}") if isinstance(specification, float) else specification


def pack(content: Mapping[str, Any]) -> str:
    """What the page's script needs, compressed, as text that can stand in a page."""
    plain = json.dumps(content, separators=(",", ":"), ensure_ascii=False)
    return base64.b64encode(zlib.compress(plain.encode(), 9)).decode()


@cache
def library() -> str:
    """Vega, Vega-Lite and Vega-Embed in one script, as Altair puts them into pages that are read offline."""
    return vl_convert.javascript_bundle().replace("</script", "<\\/script")
