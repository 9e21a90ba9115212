"""What a page is made of: sections of paragraphs, charts, tables and lists, without a word of HTML.

Every text may come from users: it is plain text, and `page.render` escapes all of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

DASH = "\u2013"  # in place of what is not known


@dataclass(frozen=True)
class Paragraph:
    """A paragraph; `quiet` ones explain, the others tell."""

    text: str
    quiet: bool = False
    kind: Literal["paragraph"] = "paragraph"


@dataclass(frozen=True)
class Chart:
    """A Vega-Lite chart.

    Attributes:
        title: what it shows.
        spec: from `charts.finished`.
        about: the same in words, for those who do not see it, and what to look for.
        switch: name of the chart's parameter that a choice sets, or "".
        choices: its values -> what they are called.
    """

    title: str
    spec: dict[str, Any]
    about: str
    switch: str = ""
    choices: dict[str, str] = field(default_factory=dict)
    kind: Literal["chart"] = "chart"


@dataclass(frozen=True)
class Cell:
    """A cell of a table: its text, what it sorts by (a number or None), and how it looks.

    Attributes:
        look: "", "strong", or a bucket's name, which gets the bucket's mark.
    """

    text: str
    value: float | None = None
    look: str = ""


@dataclass(frozen=True)
class Table:
    """A table; with more rows than `first` it can be filtered and opened.

    Attributes:
        title: what it shows.
        columns: their names; the first column is of names, those in `texts` too, the others of numbers.
        rows: a cell a column.
        texts: the columns of text.
        notes: column -> what it means.
        first: rows shown at first.
        sortable: whether a click on a column sorts by it.
        marked: the rows that stand out.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    texts: Sequence[str] = ()
    notes: dict[str, str] = field(default_factory=dict)
    first: int = 15
    sortable: bool = True
    marked: Sequence[int] = ()
    kind: Literal["table"] = "table"


@dataclass(frozen=True)
class Facts:
    """Names and values, a line each."""

    pairs: Sequence[tuple[str, str]]
    kind: Literal["facts"] = "facts"


@dataclass(frozen=True)
class Bullets:
    """A list of sentences; `warn` is for what a reader must not miss."""

    lines: Sequence[str]
    warn: bool = False
    kind: Literal["bullets"] = "bullets"


@dataclass(frozen=True)
class Folded:
    """Blocks that are opened by a click."""

    title: str
    blocks: Sequence[Any]
    kind: Literal["folded"] = "folded"


@dataclass(frozen=True)
class Chips:
    """Rows of names, some of them marked as right; `note` follows the name of a row."""

    title: str
    rows: Sequence[tuple[str, Sequence[tuple[str, bool]]]]
    kind: Literal["chips"] = "chips"


@dataclass(frozen=True)
class Quote:
    """A document: its id, its text, and rows of labels as in `Chips`."""

    name: str
    text: str
    rows: Sequence[tuple[str, Sequence[tuple[str, bool]]]]
    kind: Literal["quote"] = "quote"


Block = Paragraph | Chart | Table | Facts | Bullets | Folded | Chips | Quote


@dataclass(frozen=True)
class Section:
    """A part of the page; `anchor` is its place in the address."""

    anchor: str
    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Page:
    """A page.

    Attributes:
        name: of the tab.
        above: a few words over the headline: what this is.
        headline: the answer, in a sentence.
        lead: sentences below it: what was asked, and the numbers of the answer.
        sections: in reading order; those without blocks are left out.
    """

    name: str
    above: str
    headline: str
    lead: Sequence[str]
    sections: Sequence[Section]
