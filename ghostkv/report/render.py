"""A document as Markdown and as one HTML page, with where each block of it comes from."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jinja2
import polars as pl
from markdown_it import MarkdownIt

from ghostkv.report.document import Block, Chapter, Figure, Prose, Table
from ghostkv.report.figures import WrittenFigure, as_csv
from ghostkv.report.headline import HeadlineValue
from ghostkv.report.live import library, pack
from ghostkv.report.names import METHODS
from ghostkv.report.numbers import FORMATS, LEFT_ALIGNED, counted, listed
from ghostkv.report.results import Results, words
from ghostkv.report.theme import own_colours

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
    paths: Mapping[str, str] = field(default_factory=dict)  # of the tables that it names, by `stage.table`
    figures: Sequence[HeadlineValue] = ()  # its headline figures, and those that it quotes

    @classmethod
    def of(cls, chapter: Chapter, results: Results, measured: Mapping[str, HeadlineValue]) -> BuiltChapter:
        """Build a chapter, and find the tables that it and its blocks name."""
        blocks = chapter.build(results)
        named = [*chapter.needs, *(name for block in blocks for name in block.sources or ())]
        names = [*(figure.name for figure in chapter.headline), *chapter.quotes]
        figures = [measured[name] for name in names if name in measured]
        return cls(chapter, blocks, {name: results.path(name) for name in named}, figures)

    @property
    def tables(self) -> list[str]:
        """Paths of all tables that the chapter was made from."""
        return list(self.paths.values())

    def made_from(self, block: Figure | Table) -> list[str]:
        """Paths of the tables that a block was made from."""
        return [self.paths[name] for name in (self.chapter.needs if block.sources is None else block.sources)]

    @property
    def front(self) -> list[Block]:
        """What is read first: one paragraph, and the figures and tables that the chapter puts in front."""
        return [block for block, first in self._sorted() if first]

    @property
    def more(self) -> list[Block]:
        """All other blocks, in their order."""
        return [block for block, first in self._sorted() if not first]

    def _sorted(self) -> Iterator[tuple[Block, bool]]:
        """Every block, and whether it stands in front; the first prose as two, its first paragraph and the others."""
        named, lead = [block for block in self.blocks if not isinstance(block, Prose)], True
        wanted = self.chapter.front
        if wanted is None or (wanted and not {*wanted} & {block.name for block in named}):
            wanted = {type(block): block.name for block in reversed(named)}.values()
        for block in self.blocks:
            if not isinstance(block, Prose):
                yield block, block.name in wanted
            elif not lead:
                yield block, False
            else:
                first, _, rest = block.text.partition("\n\n")
                yield Prose(first), True
                if rest:
                    yield Prose(rest), False
                lead = False


@dataclass(frozen=True)
class Printed:
    """A table as it is printed."""

    caption: str
    header: list[str]
    rows: list[list[str]]
    left: list[bool]


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
        caption += f" The first {len(shown)} of {len(table.data)} rows; the page has all."
    header = [column.label for column in columns.values()]
    return Printed(caption, header, rows, [column.format in LEFT_ALIGNED for column in columns.values()])


def as_html(written: Mapping[str, WrittenFigure], chapters: Sequence[BuiltChapter], **shown: Any) -> str:
    """One self-contained page: styles, pictures, charts and their library inside, nothing fetched.

    Shown are `title`, `subtitle` and `left_out` (what the report does not have, and why; a sentence each).
    """
    tables = [block for built in chapters for block in built.blocks if isinstance(block, Table)]
    packed = {table.name: {"csv": as_csv(table.data)} for table in tables}
    packed |= {name: vars(one.live) | {"csv": one.csv} for name, one in written.items()}
    drawn = {name for one in written.values() for name in one.live.names}
    methods = sorted(drawn & {*map(words, own_colours()), *METHODS.values()}, key=str.lower)
    template = _TEMPLATES.get_template("report.html.jinja")
    svgs = {name: one.svg for name, one in written.items()}
    return template.render(
        **shown,
        chapters=chapters,
        svgs=svgs,
        packed=pack({"blocks": packed, "methods": methods}),
        library=library(),
    )


def as_markdown(**shown: Any) -> str:
    """The same as Markdown: figures are links into the folder `figures`, tables show at most `table_rows` rows."""
    return _TEMPLATES.get_template("RESULTS.md.jinja").render(**shown)


def _kind(block: Block) -> str:
    return {Prose: "prose", Figure: "figure", Table: "table"}[type(block)]


def _more_of(built: BuiltChapter) -> str:
    """What a chapter keeps behind its front, in a line."""
    counts = ((kind, sum(_kind(block) == kind for block in built.more)) for kind in ("figure", "table"))
    held = [counted(count, kind) for kind, count in counts if count]
    return f"More: {listed([*held, 'sources'])}"


def _cell(text: str) -> str:
    """Text inside a Markdown table, where a bar would end the cell."""
    return text.replace("|", "\\|").replace("\n", " ")


_TEMPLATES.globals |= {"kind": _kind, "printed": printed, "more_of": _more_of}
_TEMPLATES.filters |= {
    "paragraphs": _MARKDOWN.render,
    "line": _MARKDOWN.renderInline,
    "cell": _cell,
    "escape_all": html.escape,
}
