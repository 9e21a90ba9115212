"""Read numbers that callers pass, of Python, numpy, pandas or torch, as Python's."""

from __future__ import annotations

from math import isfinite
from operator import index
from typing import Any


def as_whole(value: Any) -> int | None:
    """Return an integer as Python's; None for anything else, also for True, 2.0 and "2".

    >>> import numpy as np
    >>> as_whole(np.int64(3)), as_whole(True), as_whole(3.0)
    (3, None, None)
    """
    try:
        return None if isinstance(value, bool) else index(value)
    except TypeError:
        return None


def as_finite(value: Any) -> float | None:
    """Return a number as Python's float; None for anything else, also for NaN and infinity.

    >>> import numpy as np
    >>> as_finite(np.float64(0.5)), as_finite(2), as_finite("2"), as_finite(float("nan"))
    (0.5, 2.0, None, None)
    """
    try:
        number = None if isinstance(value, bool | str | bytes) else float(value)
    except (TypeError, ValueError):
        return None
    return number if number is not None and isfinite(number) else None
