"""One look for all charts: few colours that everyone can tell apart, labels at the lines, thin grid, no
frame."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from itertools import cycle

import altair as alt

from ghostkv.files.methods import methods
from ghostkv.report.results import ORACLE, words

FONT = "Helvetica, Arial, 'Liberation Sans', sans-serif"
INK, MUTED, FAINT = "#1f2933", "#5f6b76", "#e3e7eb"
# The page turns ink and paper about in its dark theme. Words on a colour that stays stay as well.
ON_BRIGHT, ON_DARK = "#1e2832", "#fefefe"
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


def colours(names: Iterable[str], fixed: Mapping[str, str], spare: Sequence[str] = _SPARE) -> dict[str, str]:
    """A colour a name: its own where it has one, else one of the spare ones in turn."""
    rest = cycle(spare)
    return {name: fixed.get(name) or next(rest) for name in names}


def codec_colours(codecs: Iterable[str]) -> dict[str, str]:
    """The colour of each codec by its words, the same in every figure."""
    return {words(codec): colour for codec, colour in colours(codecs, own_colours()).items()}


def scale_of(colours: Mapping[str, str]) -> alt.Scale:
    """Names and their colours as a scale."""
    return alt.Scale(domain=list(colours), range=list(colours.values()))


def top_legend(**options) -> alt.Legend:
    """A legend above the chart, without a title of its own unless one is given."""
    return alt.Legend(**{"title": None, "orient": "top"} | options)


def coloured(field: str, colours: Mapping[str, str], **legend) -> alt.Color:
    """The encoding of names as colours, with a legend above the chart."""
    return alt.Color(f"{field}:N", scale=scale_of(colours), legend=top_legend(**legend))


@cache
def own_colours() -> dict[str, str]:
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
    # All at once: each of altair's configure_... copies the whole chart.
    finished = chart.copy(deep=False)
    finished.config = alt.Config(
        # The page names a picture as a whole; a label for each of its marks would weigh more than the marks.
        aria=False,
        mark=alt.MarkConfig(tooltip=alt.TooltipContent("data")),
        font=FONT,
        background="white",
        padding=8,
        view=alt.ViewConfig(stroke=None),
        axis=alt.AxisConfig(
            labelColor=MUTED,
            labelFontSize=11,
            titleColor=INK,
            titleFontSize=12,
            titleFontWeight="normal",
            gridColor=FAINT,
            domainColor=ORACLE_GREY,
            tickColor=ORACLE_GREY,
            labelOverlap="greedy",
        ),
        title=alt.TitleConfig(color=INK, fontSize=13, fontWeight="bold", anchor="start", offset=8),
        header=alt.HeaderConfig(labelColor=INK, labelFontSize=12, titleColor=INK, titleFontSize=12),
        legend=alt.LegendConfig(
            labelColor=INK, titleColor=INK, labelFontSize=11, titleFontSize=11, titleFontWeight="normal"
        ),
        text=alt.MarkConfig(font=FONT, fontSize=11),
    )
    return finished
