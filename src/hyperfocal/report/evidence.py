"""What a run keeps for its report beside its scores: computed once, in `fit` or `update`; no data is needed later.

    evidence.json   format, job, seconds, peak_bytes, shown, and what `evidence_labels` or `evidence_items` adds

It stays below 1 MB: of more than SHOWN labels or items only so many are in it, and long texts are cut.
"""

from __future__ import annotations

import sys
import time
from typing import Any

EVIDENCE = "evidence.json"
FORMAT = 1
SHOWN = 2_000  # rows of a table
LONGEST, NAME = 240, 80  # characters of a text, and of an id, a label or an item
LISTED = 12  # names in a list


def evidence_of(job: str, found: dict[str, Any], *, began: float) -> dict[str, Any]:
    """Return the content of the file.

    Args:
        job: "classify" or "recommend".
        found: what there is to tell.
        began: `time.perf_counter()` when the fit, or the update, began.
    """
    spent = {"seconds": time.perf_counter() - began, "peak_bytes": peak_bytes()}
    return {"format": FORMAT, "job": job, **spent, "shown": SHOWN, **found}


def peak_bytes() -> int | None:
    """Return the most memory that this process had so far; None where the system does not tell."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1_024


def cut(text: str | None, longest: int = NAME) -> str:
    """Return a text on one line, its end left out where it is long.

    >>> cut("two  words"), cut("too long", 4)
    ('two words', 'too…')
    """
    words = " ".join((text or "")[: 4 * longest].split())
    return words if len(words) <= longest else words[: longest - 1] + "…"
