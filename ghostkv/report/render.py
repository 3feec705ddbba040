"""A document as Markdown and as one HTML page, with where each block of it comes from."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jinja2
import polars as pl
from markdown_it import MarkdownIt

from ghostkv.report.document import Block, Chapter, Figure, Prose, Table
from ghostkv.report.headline import HeadlineValue
from ghostkv.report.numbers import FORMATS, LEFT_ALIGNED
from ghostkv.report.results import Results

_MARKDOWN = MarkdownIt("commonmark", {"html": False})
_TEMPLATES = jinja2.Environment(
    loader=jinja2.PackageLoader("ghostkv.report"),
    autoescape=jinja2.select_autoescape(["html", "html.jinja"]),
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
    undefined=jinja2.StrictUndefined,
)


@dataclass(frozen=True)
class BuiltChapter:
    """A chapter, the blocks that it built, and what they were made from."""

    chapter: Chapter
    blocks: Sequence[Block]
    tables: Sequence[str] = ()  # paths of all tables that were read for it
    # Paths of those that were read for one block, by `Block.made`.
    sources: Mapping[int, Sequence[str]] = field(default_factory=dict)
    figures: Sequence[HeadlineValue] = ()  # its headline figures, and those that it quotes

    @classmethod
    def of(cls, chapter: Chapter, results: Results, measured: Mapping[str, HeadlineValue]) -> BuiltChapter:
        """Build a chapter, and note which tables it reads.

        A block was made from the sources that it states, or else from what was read since the block before it.
        One for which nothing was read was handed frames: it names all that the chapter had read by then, as any
        of it may be in them.
        """
        begin = len(results.reads)
        blocks = chapter.build(results)
        reads, before, sources = results.reads[begin:], -1, {}
        for block in sorted(blocks, key=lambda block: block.made):
            own = [name for when, name in reads if before < when < block.made]
            handed = [name for when, name in reads if when < block.made]
            stated = None if isinstance(block, Prose) else block.sources
            names = (own or handed) if stated is None else stated
            sources[block.made], before = _paths(results, names), block.made
        names = [*(figure.name for figure in chapter.headline), *chapter.quotes]
        figures = [measured[name] for name in names if name in measured]
        return cls(chapter, blocks, _paths(results, [name for _, name in reads]), sources, figures)

    def made_from(self, block: Block) -> Sequence[str]:
        """Paths of the tables that a block was made from."""
        return self.sources.get(block.made, ())


@dataclass(frozen=True)
class Printed:
    """A table as it is printed."""

    caption: str
    header: list[str]
    rows: list[list[str]]
    left: list[bool]


def _paths(results: Results, names: Iterable[str]) -> list[str]:
    return [results.path(name) for name in dict.fromkeys(names)]


def printed(table: Table, limit: int | None = None) -> Printed:
    """Format a table; with `limit` the first rows only, and the caption says so."""
    columns = table.columns
    shown = table.data if limit is None else table.data.head(limit)
    rows = [
        [FORMATS[column.format](value) for column, value in zip(columns.values(), row, strict=True)]
        for row in shown.select(pl.col(list(columns))).iter_rows()
    ]
    caption = table.caption
    if len(shown) < len(table.data):
        caption += f" The first {len(shown)} of {len(table.data)} rows; report.html has all."
    header = [column.label for column in columns.values()]
    return Printed(caption, header, rows, [column.format in LEFT_ALIGNED for column in columns.values()])


def as_html(**shown: Any) -> str:
    """One self-contained page: styles and figures inside, no script, nothing fetched.

    Shown are `title`, `subtitle`, `chapters` (`BuiltChapter`), `left_out` (what the report does not have, and why; a
    sentence each) and `svgs` (inline SVG by figure name).
    """
    return _TEMPLATES.get_template("report.html.jinja").render(**shown)


def as_markdown(**shown: Any) -> str:
    """The same as Markdown: figures are links into the folder `figures`, tables show at most `table_rows` rows."""
    return _TEMPLATES.get_template("RESULTS.md.jinja").render(**shown)


def _kind(block: Block) -> str:
    return {Prose: "prose", Figure: "figure", Table: "table"}[type(block)]


def _cell(text: str) -> str:
    """Text inside a Markdown table, where a bar would end the cell."""
    return text.replace("|", "\\|").replace("\n", " ")


_TEMPLATES.globals |= {"kind": _kind, "printed": printed}
_TEMPLATES.filters |= {
    "paragraphs": _MARKDOWN.render,
    "line": _MARKDOWN.renderInline,
    "cell": _cell,
    "escape_all": html.escape,
}
