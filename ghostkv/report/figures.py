"""A figure as files: SVG for the page, PNG for slides, CSV with its numbers."""

from __future__ import annotations

import re
from pathlib import Path

import polars as pl
import vl_convert

from ghostkv.io import atomic_path, write_text
from ghostkv.report.document import Figure
from ghostkv.report.theme import configure


def write_figure(figure: Figure, folder: Path, png_scale: float) -> str:
    """Write `<name>.svg`, `.png` and `.csv` into `folder`.

    Returns
    -------
    str
        The SVG, ready to stand inside a page beside others.
    """
    specification = configure(figure.chart).to_dict()
    svg = vl_convert.vegalite_to_svg(specification)
    write_text(svg, folder / f"{figure.name}.svg")
    with atomic_path(folder / f"{figure.name}.png") as path:
        path.write_bytes(vl_convert.svg_to_png(svg, scale=png_scale))
    write_text(_csv(figure.data), folder / f"{figure.name}.csv")
    return inline(svg, figure.name, figure.title)


def inline(svg: str, name: str, title: str) -> str:
    """An SVG element for an HTML page: ids made unique, no namespace address, a width that gives way on
    narrow screens."""
    svg = re.sub(r"^.*?(?=<svg)", "", svg, flags=re.DOTALL)
    # Clip paths are numbered from zero in every file; side by side in one page they would clip each other's
    # charts.
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = svg.replace("url(#", f"url(#{name}-").replace('href="#', f'href="#{name}-')
    svg = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", svg)
    return svg.replace("<svg", f'<svg role="img" aria-label="{title}"', 1)


def _csv(data: pl.DataFrame) -> str:
    """Numbers with the digits that a float32 has; nested columns have no place in a CSV."""
    return data.with_columns(pl.col(pl.Float32).cast(pl.Float64)).write_csv(float_precision=9)
