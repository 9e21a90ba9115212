"""Which process is at a point: a claim, void once that process is gone."""

from __future__ import annotations

import os
from pathlib import Path
from socket import gethostname

CLAIM_SECONDS = 6 * 3600  # a claim of a process that cannot be looked at counts as left behind after this
Claim = tuple[str, int, str, float]  # host, number and birth of the process, and when it claimed, in seconds of 1970


def own_claim(now: float) -> Claim:
    """Return the claim of this process."""
    return gethostname(), os.getpid(), _birth(os.getpid()) or "", now


def holds(claim: Claim, now: float) -> bool:
    """Return whether the process that claimed is still at it."""
    host, pid, birth, started = claim
    if host == gethostname() and birth:
        return _birth(pid) == birth
    return 0 <= now - started < CLAIM_SECONDS


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
