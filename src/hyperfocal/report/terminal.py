"""Tables of scores for the terminal."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text


def numbers_table(*columns: str, texts: Sequence[str] = ("",)) -> Table:
    """Return an empty table without lines; all columns except those in `texts` hold numbers."""
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    for name in columns:
        table.add_column(name, justify="left" if name in texts else "right", no_wrap=True)
    return table


def test_table(
    scores: Mapping[str, Any], scored: str, cells: Callable[[Any], dict[str, str]], lines: Sequence[str], width: int
) -> Group:
    """Return the test scores of a grid's winner and baseline under a title, and lines below them.

    Args:
        scores: "of": the names of "winner" and "baseline"; under these two words: the results of `evaluate`.
        scored: "users" or "documents"; its number is in the results.
        cells: returns the rows of a result, title -> text.
        lines: below the table.
        width: characters of a name per line.
    """
    names = scores["of"]
    roles = ("winner",) if names["winner"] == names["baseline"] else ("winner", "baseline")
    table, columns = numbers_table(""), [cells(scores[role]) for role in roles]
    for role in roles:
        table.add_column(Text(f"{role}\n{names[role]}"), max_width=width, overflow="fold")
    for title in columns[0]:
        table.add_row(title, *(column[title] for column in columns))
    head = f"Test, {scores['winner'][scored]:,} {scored}; each ± is half a 95% interval"
    return Group(Text(head, style="bold"), table, *map(Text, lines))
