"""Filters: conditions on columns of the item table, such as "price < 20" or "category in [shoes, bags]".

    column = value     column != value     <, <=, >, >=     column in [a, b]     column not in [a, b]

Numbers and dates are compared as such, booleans with true and false, texts whole. A list satisfies "=" and "in" if one
of its parts does. A missing value satisfies no condition. Names and values with signs or commas stand in quotes.
"""

from __future__ import annotations

import csv
import operator
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hyperfocal.errors import ConfigError
from hyperfocal.recommend.item_columns import ItemColumns, Numbers, Texts, number_of

SIGN = re.compile(r"<=|>=|!=|==|=|<|>|\bnot\s+in\b|\bin\b")
COMPARED: dict[str, Callable[[Any, Any], Any]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
EXAMPLES = '"in_stock = true", "price < 20" or "category in [shoes, bags]"'


class Condition(NamedTuple):
    """One filter, read."""

    column: str
    sign: str  # "in", "not in", or one of COMPARED
    values: list[str]


def parse(text: str, columns: Sequence[str]) -> Condition:
    """Return the condition that a filter says of one of the columns.

    Raises:
        ConfigError: it is no condition, or none on one of the columns.

    >>> parse("price<20", ["price"])
    Condition(column='price', sign='<', values=['20'])
    >>> parse('made in not in ["Bonn, Rhine", Rome]', ["made in"])
    Condition(column='made in', sign='not in', values=['Bonn, Rhine', 'Rome'])
    """
    if not isinstance(text, str):
        raise ConfigError(f"`filters=`: {text!r} is not a text. Expected conditions, such as {EXAMPLES}")
    signs = list(SIGN.finditer(text))
    places = [(text[: sign.start()].strip().strip("\"'"), sign) for sign in signs]
    column, sign = next(((name, sign) for name, sign in places if name in columns), ("", None))
    if sign is None:
        named = [name for name, _ in places if name]
        if not named:
            raise ConfigError(f"`filters=`: {text!r} is no condition. Expected such as {EXAMPLES}")
        raise ConfigError(f"`filters=`: {text!r}: the item table has no column {named[0]!r}. {_listed(columns)}")
    values = _values(text[sign.end() :], many=sign[0].endswith("in"))
    if not values or (len(values) == 1 and not values[0]):
        raise ConfigError(f"`filters=`: {text!r} has no value. Expected such as {EXAMPLES}")
    word = " ".join(sign[0].split())
    return Condition(column, {"=": "in", "==": "in", "!=": "not in"}.get(word, word), values)


def satisfying(filters: Sequence[str], columns: ItemColumns) -> NDArray[np.bool_]:
    """Return (L,) whether each item satisfies all filters.

    Raises:
        ConfigError: as in `parse`; an order of texts.
        DataError: a value is not of the kind of its column.
    """
    mask = np.ones(len(columns.ids), dtype=np.bool_)
    for text in filters:
        condition = parse(text, columns.names)
        column = columns.read(condition.column)
        mask &= _by_number(condition, column) if isinstance(column, Numbers) else _by_text(condition, column, len(mask))
    return mask


def _values(text: str, *, many: bool) -> list[str]:
    """Return the value of a condition, or the values of a list, without quotes."""
    text = text.strip()
    if not many:
        return [text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'" else text]
    inner = text[1:-1] if text[:1] + text[-1:] in ("[]", "()") else text
    row = next(csv.reader([inner], skipinitialspace=True), [])
    return [value.strip() for value in row if value.strip()]


def _listed(columns: Sequence[str]) -> str:
    return f"Its columns: {', '.join(columns)}"


def _by_number(condition: Condition, column: Numbers) -> NDArray[np.bool_]:
    wanted = np.array([number_of(value, column, condition.column) for value in condition.values])
    values, known = column.values, ~np.isnan(column.values)
    if condition.sign in COMPARED:
        compared: NDArray[np.bool_] = COMPARED[condition.sign](values, wanted[0]) & known
        return compared
    equal: NDArray[np.bool_] = np.isin(values, wanted) == (condition.sign == "in")
    return equal & known


def _by_text(condition: Condition, column: Texts, size: int) -> NDArray[np.bool_]:
    if condition.sign in COMPARED:
        raise ConfigError(
            f"`filters=`: column {condition.column!r} holds texts, which {condition.sign} cannot compare. Use = or in"
        )
    mask = np.zeros(size, dtype=np.bool_)
    for value in condition.values:
        mask[column.items.get(value, [])] = True
    if condition.sign == "in":
        return mask
    return column.known & ~mask
