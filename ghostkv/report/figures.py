"""A figure as files: SVG for the page, PNG for slides, CSV with its numbers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import polars as pl
import vl_convert

from ghostkv.files.io import atomic_path, write_text
from ghostkv.report.document import Figure
from ghostkv.report.theme import configure


def write_figure(figure: Figure, folder: Path, png_scale: float) -> str:
    """Write `<name>.svg`, `.png` and `.csv` into `folder`.

    Returns
    -------
    str
        The SVG, ready to stand inside a page beside others.
    """
    svg = _renumbered(vl_convert.vegalite_to_svg(_rounded(configure(figure.chart).to_dict())))
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


def _renumbered(svg: str) -> str:
    """The same SVG with clip paths and gradients numbered from 0; vl-convert counts on from figure to figure."""
    for kind in ("clip", "gradient_"):
        order = {
            old: f"{kind}{new}" for new, old in enumerate(dict.fromkeys(re.findall(rf"\b{kind}\d+", svg)))
        }
        svg = re.sub(rf"\b{kind}\d+", lambda found, order=order: order[found.group()], svg)
    return svg


def _rounded(specification: Any) -> Any:
    """The same chart with numbers of nine significant digits.

    Polars adds in whatever order its threads finish, so last digits differ between runs; files should not.
    """
    if isinstance(specification, dict):
        return {name: _rounded(part) for name, part in specification.items()}
    if isinstance(specification, list):
        return [_rounded(part) for part in specification]
    return float(f"{specification:.9g}") if isinstance(specification, float) else specification


def _csv(data: pl.DataFrame) -> str:
    """Numbers with the digits that a float32 has; nested columns have no place in a CSV."""
    return data.with_columns(pl.col(pl.Float32, pl.Float64).cast(pl.Float64).round_sig_figs(7)).write_csv()
