"""Which process is at a point: a claim, void once that process is gone.

A process on this machine can be looked at. One on another machine says every quarter of a minute that it lives, and is
taken for gone when it has been silent for three minutes; so the clocks of machines that share a grid may differ by a
minute or two.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from socket import gethostname

BEAT_SECONDS = 15.0
SILENT_SECONDS = 180.0
Claim = tuple[str, int, str, float]  # host, number and birth of the process, and its last beat, in seconds of 1970


def own_claim(now: float) -> Claim:
    """Return the claim of this process."""
    return gethostname(), os.getpid(), _birth(os.getpid()) or "", now


def holds(claim: Claim, now: float) -> bool:
    """Return whether the process that claimed is still at it."""
    host, pid, birth, beat = claim
    if host == gethostname() and birth:
        return _birth(pid) == birth
    return now - beat < SILENT_SECONDS


@contextmanager
def beating(beat: Callable[[], None], seconds: float = BEAT_SECONDS) -> Iterator[None]:
    """Call `beat` every so many seconds while something is done inside."""
    ended = threading.Event()

    def go() -> None:
        while not ended.wait(seconds):
            beat()

    thread = threading.Thread(target=go, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _birth(pid: int) -> str | None:
    """Return what tells this process from others of its number; "" where the system cannot say, None if gone.

    The boot and the tick at which it started, of Linux; a process that ended and was not collected is gone.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""
    try:
        state, *fields = (
            Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        )
    except OSError:
        return None
    return None if state in "ZX" else f"{boot} {fields[18]}"
