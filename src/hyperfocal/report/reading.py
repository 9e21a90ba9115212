"""Show a reading plan as a table, in the terminal and on the page."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.text import Text

from hyperfocal.data.reading import LISTS, PlannedColumn, ReadingPlan
from hyperfocal.data.text_columns import KNOWN_TEXTS
from hyperfocal.distributed import is_first
from hyperfocal.report.blocks import Cell, Table
from hyperfocal.report.console import SafeConsole
from hyperfocal.report.format import numbers_table, quantity

MOST_COLUMNS = 8  # in the terminal, so that the table has at most a dozen lines
MOST_IGNORED = 10  # names
HEADER = ("column", "used as", "type", "missing", "example")
TYPES = {"whole": "text, whole numbers", "integer": "integers", "position": "positions", "time": "times"}


def print_plan(plan: ReadingPlan) -> None:
    """Print the reading plan of training data to stderr; nothing for lists, which have no columns."""
    if plan.form != LISTS and is_first():
        SafeConsole(stderr=True).print(plan_report(plan), "")


def plan_report(plan: ReadingPlan) -> RenderableType:
    """Return the plan as a table of at most 12 lines, 80 columns wide."""
    table = numbers_table(*HEADER, texts=[name for name in HEADER if name != "missing"])
    for place, width in ((0, 20), (2, 22), (4, 24)):
        table.columns[place].max_width = width
        table.columns[place].overflow = "ellipsis"
    for column in plan.columns[:MOST_COLUMNS]:
        cells = (column.name, column.use, type_of(column, plan), f"{column.missing:,}", _one_line(column.example))
        table.add_row(*map(Text, cells))
    lines: list[RenderableType] = [Text(f"Read {quantity(plan.rows, 'row')}:", style="bold"), table]
    if more := plan.columns[MOST_COLUMNS:]:
        lines.append(Text(f"and {_listed([column.name for column in more])}"))
    return Group(*lines, *map(Text, ignored_lines(plan)))


def plan_table(plan: ReadingPlan) -> Table:
    """Return the plan as a table for the page."""
    rows = [
        [*map(Cell, (column.name, column.use, type_of(column, plan))), Cell(f"{column.missing:,}", column.missing)]
        for column in plan.columns
    ]
    return Table(f"How {quantity(plan.rows, 'row')} were read", HEADER[:4], rows, texts=HEADER[1:3])


def ignored_lines(plan: ReadingPlan) -> list[str]:
    """Return a line with the columns that are not read, and another line if some of them may hold text."""
    lines = [f"Ignored: {_listed(plan.ignored)}."] if plan.ignored else []
    texts = [name for name in plan.ignored if plan.names("text") and name.lower() in sum(KNOWN_TEXTS, ())]
    return lines + [
        f"{_listed(texts)} may hold text too. Name all text columns to read them together." for _ in texts[:1]
    ]


def type_of(column: PlannedColumn, plan: ReadingPlan) -> str:
    """Return the type of a column in words, with the separator of labels.

    >>> labels = PlannedColumn("tags", "labels", "text")
    >>> type_of(labels, ReadingPlan("documents", 2, (labels,), separator="|"))
    'text, split at |'
    """
    if column.use == "labels":
        if column.type == "list":
            return "lists"
        return f"text, split at {'spaces' if plan.separator.isspace() else plan.separator}"
    return TYPES.get(column.type, column.type)


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _listed(names: tuple[str, ...] | list[str]) -> str:
    rest = len(names) - MOST_IGNORED
    return ", ".join([*names[:MOST_IGNORED], *([f"and {rest:,} more"] if rest > 0 else [])])
