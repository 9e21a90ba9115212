"""Format numbers and lines for the terminal and the page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.text import Text


def share(value: float | None, *, digits: int = 3) -> str:
    """Return ".074" for 0.0738, "-" for nothing.

    >>> share(0.0738), share(1.0), share(None)
    ('.074', '1.000', '-')
    """
    return "-" if value is None or math.isnan(value) else f"{value:.{digits}f}".removeprefix("0")


def half_width(metrics: Mapping[str, Any], name: str) -> str:
    """Return "±" and half the width of a metric's interval; "" if it has none."""
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


def print_lines(console: Console, lines: Sequence[str]) -> None:
    """Print plain sentences, without reading markup into them."""
    for line in lines:
        console.print(Text(line))


def print_commands(console: Console, lines: Sequence[str]) -> None:
    """Print lines that a person copies: never broken by us."""
    for line in lines:
        console.print(Text(line), soft_wrap=True)
