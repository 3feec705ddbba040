"""A figure as files: SVG for the page, PNG for slides, CSV with its numbers."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import vl_convert

from ghostkv.files.io import atomic_path, write_text
from ghostkv.report.document import Figure
from ghostkv.report.live import LiveChart


@dataclass(frozen=True)
class WrittenFigure:
    """A figure as the page has it: the still picture, the live chart, and its numbers as CSV."""

    svg: str
    live: LiveChart
    csv: str


def write_figure(figure: Figure, folder: Path, png_scale: float) -> WrittenFigure:
    """Write `<name>.svg`, `.png` and `.csv` into `folder`."""
    live = LiveChart.of(figure)
    svg = _renumbered(vl_convert.vegalite_to_svg(live.spec))
    write_text(svg, folder / f"{figure.name}.svg")
    with atomic_path(folder / f"{figure.name}.png") as path:
        path.write_bytes(vl_convert.svg_to_png(svg, scale=png_scale))
    numbers = as_csv(figure.data)
    write_text(numbers, folder / f"{figure.name}.csv")
    return WrittenFigure(inline(svg, figure.name, figure.title), live, numbers)


def inline(svg: str, name: str, title: str) -> str:
    """An SVG element for an HTML page: ids made unique, no namespace address, and one name for the
    whole picture."""
    svg = re.sub(r"^.*?(?=<svg)", "", svg, flags=re.DOTALL)
    # Clip paths are numbered from zero in every file; side by side in one page they would clip each other's
    # charts.
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = svg.replace("url(#", f"url(#{name}-").replace('href="#', f'href="#{name}-')
    svg = re.sub(r'\s(xmlns(:\w+)?|role|aria-[a-z]+)="[^"]*"', "", svg)
    return svg.replace("<svg", f'<svg role="img" aria-label="{title}"', 1)


def _renumbered(svg: str) -> str:
    """The same SVG with clip paths and gradients numbered from 0; vl-convert counts on from figure to figure."""
    for kind in ("clip", "gradient_"):
        order = {
            old: f"{kind}{new}" for new, old in enumerate(dict.fromkeys(re.findall(rf"\b{kind}\d+", svg)))
        }
        svg = re.sub(rf"\b{kind}\d+", lambda found, order=order: order[found.group()], svg)
    return svg


def as_csv(data: pl.DataFrame) -> str:
    """Numbers with the digits that a float32 has; nested columns have no place in a CSV."""
    return data.with_columns(pl.col(pl.Float32, pl.Float64).cast(pl.Float64).round_sig_figs(7)).write_csv()
