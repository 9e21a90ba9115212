"""Check whether the process that claimed a point is alive; `Store.claim` takes the claim.

A claim ends with its process.

Whether a process on this machine is alive can be checked. A process on another machine renews its claim every 15
seconds, and counts as gone after three minutes without a renewal; so the clocks of machines that share a grid may
differ by a minute or two.
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
Claim = tuple[str, int, str, float]  # host, process id, start of the process, and last renewal in seconds since 1970


def own_claim(now: float) -> Claim:
    """Return the claim of this process."""
    return gethostname(), os.getpid(), _birth(os.getpid()) or "", now


def holds(claim: Claim, now: float) -> bool:
    """Return whether the process of a claim is alive."""
    host, pid, birth, beat = claim
    if host == gethostname() and birth:
        return _birth(pid) == birth
    return now - beat < SILENT_SECONDS


@contextmanager
def beating(beat: Callable[[], None], seconds: float = BEAT_SECONDS) -> Iterator[None]:
    """Call `beat` every `seconds` in a thread, until the end."""
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
    """Return what distinguishes a process from others with its id: on Linux, the boot and the tick of its start.

    "": the system does not say. None: the process is gone, or a zombie.
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
