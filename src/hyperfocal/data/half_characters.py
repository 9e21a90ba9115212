r"""Refuse texts with half a character: a lone surrogate such as "\ud83d", which JSON parsers may leave in a string."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from hyperfocal.errors import DataError

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def refuse_halves(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    r"""Return a function that raises DataError if `function` cannot encode a text.

    >>> refuse_halves(str.encode)("a\ud83d")
    Traceback (most recent call last):
    hyperfocal.errors.DataError: 'a\ud83d' has half a character, '\ud83d'. Write the whole character, or remove it
    """

    @wraps(function)
    def checked(*args: Arguments.args, **options: Arguments.kwargs) -> Result:
        try:
            return function(*args, **options)
        except UnicodeEncodeError as error:
            raise half_character(error) from None

    return checked


def half_character(error: UnicodeEncodeError, name: str = "") -> DataError:
    """Return the error for a text that cannot be encoded; `name` is its column."""
    column = f"frame: column '{name}': " if name else ""
    half = error.object[error.start]
    return DataError(
        f"{column}{error.object[:80]!r} has half a character, {half!r}. Write the whole character, or remove it"
    )
