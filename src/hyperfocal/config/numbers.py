"""Read numbers that callers pass, of Python, numpy, pandas or torch, as Python's."""

from __future__ import annotations

from math import isfinite
from operator import index
from typing import Any

from hyperfocal.errors import ConfigError


def as_whole(value: Any) -> int | None:
    """Return an integer as Python's; None for anything else, also for True, 2.0, "2" and an array.

    >>> import numpy as np
    >>> as_whole(np.int64(3)), as_whole(True), as_whole(3.0)
    (3, None, None)
    """
    try:
        return index(value) if _may_be_number(value) else None
    except (TypeError, ValueError, RuntimeError):  # RuntimeError: of torch
        return None


def as_finite(value: Any) -> float | None:
    """Return a number as Python's float; None for anything else, also for True, NaN, infinity and an array.

    >>> import numpy as np
    >>> as_finite(np.float64(0.5)), as_finite(2), as_finite("2"), as_finite(float("nan"))
    (0.5, 2.0, None, None)
    """
    try:
        number = float(value) if _may_be_number(value) else None
    except (TypeError, ValueError, OverflowError, RuntimeError):  # OverflowError: an integer above 1e308
        return None
    return number if number is not None and isfinite(number) else None


def as_share(name: str, value: Any) -> float | None:
    """Return a number from 0 to 1 as Python's float, and None as it is.

    Raises:
        ConfigError: the value, called `name`, is something else.
    """
    number = as_finite(value)
    if value is not None and (number is None or not 0 <= number <= 1):
        raise ConfigError(f"{name} = {value!r} is not allowed. Expected a number from 0 to 1")
    return number


def _may_be_number(value: Any) -> bool:
    """Return whether a value is no bool, text, complex number or array; it may be of another type that is no number."""
    if isinstance(value, bool | str | bytes | bytearray | complex) or getattr(value, "ndim", 0) > 0:
        return False
    dtype = getattr(value, "dtype", None)
    return getattr(dtype, "kind", "f") in "iuf" and str(dtype) != "torch.bool"
