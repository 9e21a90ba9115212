"""What a grid shall do, kept beside its results, so that a report can say what remains."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hyperfocal.grid.points import Point
from hyperfocal.runs import RunFolder

PLAN = "plan.json"


def keep_plan(
    out: Path, points: Sequence[Point], baseline: str, by: str, fingerprint: str, *, unproposed: int = 0
) -> None:
    """Write the points of the command that runs now, in place of those of an earlier one.

    Args:
        out: folder of the grid.
        points: all that are known, also those that are done.
        baseline: name of the point that the others are compared with.
        by: the metric that chooses the winner.
        fingerprint: checksum of the data, as in `Point.key`.
        unproposed: trials of a search whose points are not known yet.

    Raises:
        RunError: it cannot be written.
    """
    planned = [{"key": point.key(fingerprint), "name": point.name, "seed": point.seed} for point in points]
    about = {"baseline": baseline, "by": by, "unproposed": unproposed}
    RunFolder(out).write_json(PLAN, about | {"points": planned})
