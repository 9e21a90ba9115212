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
    """A Vega-Lite chart.

    Attributes:
        title: above the chart.
        spec: from `charts.spec_of`.
        about: description below the chart, also for readers who do not see it.
        switch: the parameter of the chart that a choice sets; "": no choice.
        choices: value of the parameter -> its name.
    """

    title: str
    spec: dict[str, Any]
    about: str
    switch: str = ""
    choices: dict[str, str] = field(default_factory=dict)
    kind: Literal["chart"] = "chart"


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
        text: in the cell.
        value: number to sort by; None: the text.
        look: "", "strong", or a bucket's name, for the bucket's mark.
    """

    text: str
    value: float | None = None
    look: str = ""


@dataclass(frozen=True)
class Table:
    """A table; one with more rows than `first` has a filter and a button that shows all rows.

    Attributes:
        title: above the table.
        columns: their names; the first column and those in `texts` hold text, the others numbers.
        rows: one cell per column.
        texts: the other columns of text.
        notes: column -> its meaning.
        first: number of rows shown at first.
        sortable: whether a click on a column sorts by it.
        marked: numbers of the highlighted rows.
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
    """A page. Its headline is the verdict: `grid_verdict.py` writes a grid's, `page.py` of the job a run's.

    Attributes:
        name: title of the browser tab.
        above: a few words above the headline: the kind of page, its folder and its date.
        headline: the verdict in one sentence.
        lead: sentences below the headline: the question, and the numbers of the answer.
        sections: in reading order; a section without blocks is left out.
    """

    name: str
    above: str
    headline: str
    lead: Sequence[str]
    sections: Sequence[Section]
