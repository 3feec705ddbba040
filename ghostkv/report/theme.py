"""One look for all charts: few colours that everyone can tell apart, labels at the lines, thin grid, no
frame."""

from __future__ import annotations

from functools import cache
from itertools import cycle

import altair as alt

from ghostkv.files.methods import methods
from ghostkv.report.results import ORACLE, words

FONT = "Helvetica, Arial, 'Liberation Sans', sans-serif"
INK, MUTED, FAINT = "#1f2933", "#5f6b76", "#e3e7eb"
# Okabe and Ito's palette, which survives the common colour blindnesses; the headline design is the one
# saturated blue.
BLUE, VERMILION, GREEN, ORANGE, PURPLE, SKY = "#0072b2", "#d55e00", "#009e73", "#e69f00", "#aa4499", "#56b4e9"
# The oracle is a reference and no competitor, so it is grey everywhere.
ORACLE_GREY = "#8a949e"
_SPARE = ("#44aa99", "#882255", "#999933", SKY)
# Light is little, dark is much; equal steps in lightness.
SEQUENTIAL = "viridis"
# What fits a column of text; a figure stays readable at this width.
WIDTH = 620


def codec_scale(codecs: list[str]) -> alt.Scale:
    """The colour of each codec by its words, the same in every figure."""
    known, spare = codec_colours(), cycle(_SPARE)
    colours = [known.get(codec) or next(spare) for codec in codecs]
    return alt.Scale(domain=[words(codec) for codec in codecs], range=colours)


@cache
def codec_colours() -> dict[str, str]:
    """The colour that each codec's class names, or a spare one in the order of names; grey for exact scores."""
    spare = cycle(_SPARE)
    found = methods("codecs", "Codec")
    named = {name: method.constants.get("colour") or next(spare) for name, method in found.items()}
    return {**named, ORACLE: ORACLE_GREY}


def percent_axis(title: str, **options) -> alt.Axis:
    """An axis of shares, printed as per cent without needless zeros."""
    return alt.Axis(title=title, labelExpr="format(datum.value * 100, '.4~g') + ' %'", **options)


def configure(chart: alt.TopLevelMixin) -> alt.TopLevelMixin:
    """The finished chart in the lab's look."""
    return (
        chart.configure(font=FONT, background="white", padding=8)
        .configure_view(stroke=None)
        .configure_axis(
            labelColor=MUTED,
            labelFontSize=11,
            titleColor=INK,
            titleFontSize=12,
            titleFontWeight="normal",
            gridColor=FAINT,
            domainColor=ORACLE_GREY,
            tickColor=ORACLE_GREY,
            labelOverlap="greedy",
        )
        .configure_title(color=INK, fontSize=13, fontWeight="bold", anchor="start", offset=8)
        .configure_header(labelColor=INK, labelFontSize=12, titleColor=INK, titleFontSize=12)
        .configure_legend(
            labelColor=INK, titleColor=INK, labelFontSize=11, titleFontSize=11, titleFontWeight="normal"
        )
        .configure_text(font=FONT, fontSize=11)
    )
