"""Ctrl-C that is remembered: a library may swallow the exception that it raises, and the work would continue."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_came: list[int] = []  # inside `remembered`, the numbers of the signals so far


@contextmanager
def remembered() -> Iterator[None]:
    """Remember each Ctrl-C until the end, besides what it does by default: it raises KeyboardInterrupt."""
    is_main = threading.current_thread() is threading.main_thread()  # no other thread may set a handler
    if not is_main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, _remember)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        _came.clear()


def came() -> bool:
    """Return whether a Ctrl-C came inside `remembered`."""
    return bool(_came)


def _remember(number: int, _: object) -> None:
    _came.append(number)
    raise KeyboardInterrupt
