"""Every error that hyperfocal raises on purpose.

    HyperfocalError              any error below; the command line prints it and exits with 2
    ├── DataError                a file, a table or a value that was passed in is wrong
    │   └── LeakError            a user is in two parts of a split
    ├── ConfigError              a recipe, a setting or an argument is wrong
    ├── RunError                 a run folder is missing, damaged, taken or cannot be written
    └── TrainingError            training cannot continue: the loss is not a number, or another process has ended

A message gives the problem, the value received, the allowed values, and the next step.
"""

import re
from collections.abc import Sequence
from difflib import get_close_matches

NO_MEMORY = re.compile(
    r"allocate memory|enough memory|out of memory|bad_alloc|allocation failed|could not create a (?:primitive|memory)|"
    r"[Ss]torage size calculation overflowed"
)

MOST_COLUMNS = 30
UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


class HyperfocalError(Exception):
    """The base of every error raised on purpose."""


class DataError(HyperfocalError, ValueError):
    """A file, a table or a value that was passed in is wrong."""


class LeakError(DataError):
    """A user is in two parts of a split."""


class ConfigError(HyperfocalError, ValueError):
    """A recipe, a setting or an argument is wrong."""


class RunError(HyperfocalError):
    """A run folder is missing, damaged, taken or cannot be written."""


class TrainingError(HyperfocalError):
    """Training cannot continue: the loss is not a number, or another process has ended."""


def did_you_mean(name: str, allowed: list[str]) -> str:
    """Return " Did you mean 'x'?" for the nearest allowed name, or "" if no name is near.

    >>> did_you_mean("gama", ["gamma", "alpha"])
    " Did you mean 'gamma'?"
    """
    near = get_close_matches(name.lower(), allowed, n=1, cutoff=0.5)
    return f" Did you mean '{near[0]}'?" if near else ""


def columns_of(header: Sequence[str]) -> str:
    """Return "Columns found: a, b" for messages, of the first MOST_COLUMNS.

    >>> columns_of(["user", "item"])
    'Columns found: user, item'
    >>> columns_of([str(number) for number in range(32)])[-18:]
    '28, 29, and 2 more'
    """
    rest = len(header) - MOST_COLUMNS
    return f"Columns found: {', '.join(header[:MOST_COLUMNS])}" + (f", and {rest:,} more" if rest > 0 else "")


def is_of_memory(error: BaseException) -> bool:
    """Return whether an error is about too little memory; torch raises a RuntimeError then."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and NO_MEMORY.search(str(error)) is not None
    )


def memory_message(error: BaseException) -> str:
    """Return the message for an error about too little memory.

    >>> memory_message(RuntimeError("you tried to allocate 4000000000 bytes")).split(". ")[0]
    'the memory is not enough for an array of 3.7 GiB'
    """
    size = re.search(r"allocate (\d+) bytes", str(error))
    array = f" for an array of {in_units(int(size[1]))}" if size else ""
    return (
        f"the memory is not enough{array}. Lower train.batch_size or the size of the model, read less data, or use a "
        "machine with more memory"
    )


def printable(text: str) -> str:
    r"""Return a text for a terminal: control characters, and bytes of a name that is not UTF-8, are escaped.

    Line ends and tabs stay. A name or a label could otherwise clear the screen or write to the clipboard.

    >>> printable("a\x1b[31mb\udcff\n")
    'a\\x1b[31mb\\xff\n'
    """
    return UNPRINTABLE.sub(lambda match: f"\\x{ord(match[0]) & 0xFF:02x}", text)


def in_units(size: int) -> str:
    """Return a number of bytes for messages.

    >>> in_units(3 * 2**40), in_units(1_500)
    ('3.0 TiB', '1.5 KiB')
    """
    number, units = float(size), ["bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"]
    while number >= 1024 and len(units) > 1:
        number, units = number / 1024, units[1:]
    return f"{number:,.1f} {units[0]}" if number < 1e6 else f"{number:.1e} {units[0]}"
