"""The content of a page without HTML: sections of paragraphs, charts, tables and lists.

Every text may come from users: it is plain text, and `page.render` escapes all of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

DASH = "\u2013"  # in place of an unknown value


@dataclass(frozen=True)
class Paragraph:
    """A paragraph; a `quiet` one explains, the others report results."""

    text: str
    quiet: bool = False
    kind: Literal["paragraph"] = "paragraph"


@dataclass(frozen=True)
class Chart:
    """A Vega-Lite chart."""

    title: str  # above the chart
    spec: dict[str, Any]  # from `charts.spec_of`
    about: str  # below the chart, also for readers who do not see it
    switch: str = ""  # the parameter of the chart that a choice sets; "": no choice
    choices: dict[str, str] = field(default_factory=dict)  # value of the parameter -> its name
    kind: Literal["chart"] = "chart"


@dataclass(frozen=True)
class Cell:
    """A cell of a table."""

    text: str
    value: float | None = None  # to sort by; None: the text
    look: str = ""  # "", "strong", or a bucket's name, for the bucket's mark


@dataclass(frozen=True)
class Table:
    """A table; one with more rows than `first` has a filter and a button that shows all rows."""

    title: str  # above the table
    columns: Sequence[str]  # their names; the first column and those in `texts` hold text, the others numbers
    rows: Sequence[Sequence[Cell]]  # one cell per column
    texts: Sequence[str] = ()  # the other columns of text
    notes: dict[str, str] = field(default_factory=dict)  # column -> its meaning
    first: int = 15  # number of rows shown at first
    sortable: bool = True  # whether a click on a column sorts by it
    marked: Sequence[int] = ()  # numbers of the highlighted rows
    kind: Literal["table"] = "table"


@dataclass(frozen=True)
class Facts:
    """Names and values, one line per pair."""

    pairs: Sequence[tuple[str, str]]
    kind: Literal["facts"] = "facts"


@dataclass(frozen=True)
class Bullets:
    """A list of sentences; `warn` highlights it."""

    lines: Sequence[str]
    warn: bool = False
    kind: Literal["bullets"] = "bullets"


@dataclass(frozen=True)
class Folded:
    """Blocks that a click unfolds."""

    title: str
    blocks: Sequence[Any]
    kind: Literal["folded"] = "folded"


@dataclass(frozen=True)
class Chips:
    """Rows under a title: the name of a row, and its texts, each with whether it is marked as right."""

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
    """A section of a page; `anchor` is its place in the address."""

    anchor: str
    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Page:
    """A page. Its headline is the verdict: `grid_verdict.py` writes a grid's, `page.py` of the job a run's."""

    name: str  # title of the browser tab
    above: str  # a few words above the headline: the kind of page, its folder and its date
    headline: str  # the verdict in one sentence
    lead: Sequence[str]  # sentences below the headline: the question, and the numbers of the answer
    sections: Sequence[Section]  # in reading order; a section without blocks is left out
