"""Every error that hyperfocal raises on purpose.

    HyperfocalError              any error below; the command line prints it and exits with 2
    ├── DataError                a file, a table or a value that was passed in is wrong
    │   └── LeakError            a user is in two parts of a split
    ├── ConfigError              a recipe, a setting or an argument is wrong
    ├── RunError                 a run folder is missing, damaged, taken or cannot be written
    └── TrainingError            training cannot continue: the loss is not a number, or another process has ended

A message gives the problem, the value received, the allowed values, and the next step.
"""

from difflib import get_close_matches


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
