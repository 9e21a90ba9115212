"""Format numbers, texts, lines and tables for the terminal and the page."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from hyperfocal.report.blocks import DASH


def share(value: float | None, *, digits: int = 3) -> str:
    """Return ".074" for 0.0738, "-" for None and nan.

    >>> share(0.0738), share(1.0), share(None)
    ('.074', '1.000', '-')
    """
    return "-" if value is None or math.isnan(value) else f"{value:.{digits}f}".removeprefix("0")


def half_width(metrics: Mapping[str, Any], name: str) -> str:
    """Return "±" and half the width of a metric's interval; "" for a metric without one."""
    ends = metrics["intervals"].get(name)
    if ends is None or ends["low"] is None or math.isnan(ends["low"]):
        return ""
    return f"±{share((ends['high'] - ends['low']) / 2)}"


def quantity(number: int, noun: str) -> str:
    """Return a number with its noun, in the plural unless it is 1.

    >>> quantity(1, "user"), quantity(2_000, "user")
    ('1 user', '2,000 users')
    """
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def duration(seconds: float) -> str:
    """Return a time in its two largest units.

    >>> duration(4.2), duration(75), duration(7260)
    ('4.2 s', '1 min 15 s', '2 h 1 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def plain(value: Any) -> str:
    r"""Return a setting as text.

    >>> plain(True), plain([100, 50]), plain(""), plain(0.002)
    ('yes', '100, 50', '\u2013', '0.002')
    """
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(map(plain, value)) or DASH
    return DASH if value in ("", None) else str(value)


def capitalized(text: str) -> str:
    """Return a text with its first letter in upper case and the others unchanged.

    >>> capitalized("micro-F1")
    'Micro-F1'
    """
    return text[:1].upper() + text[1:]


def print_lines(console: Console, lines: Sequence[str]) -> None:
    """Print plain sentences, without interpreting markup in them."""
    for line in lines:
        console.print(Text(line))


def print_commands(console: Console, lines: Sequence[str]) -> None:
    """Print lines that a person copies, without breaking them."""
    for line in lines:
        console.print(Text(line), soft_wrap=True)


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
