"""The 12-point grid of the story on Debtags: its wall time against one fit from raw text, and against the plain way.

    python benchmarks/grid.py [--features ngrams|both] [--plain] [--data FOLDER]

Everything runs as a user would run it, `hyperfocal classify ...` in processes of its own, with an empty cache at first:

    fit     one complete fit from raw text: read, features, training, thresholds
    grid    caps none,6,7,8 x gammas none,2,3, one seed, two workers, features found in the cache
    plain   each of the 12 points reads, computes features and trains by itself, one after the other; with an encoder
            that would take hours, so one is run and multiplied, which the output says

Peak memory is the sum over the processes, sampled twice a second. Run it with nothing else running.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
DATA = ROOT.parent / "shared" / "data" / "debtags"
CAPS, GAMMAS = ("off", "6", "7", "8"), (None, "2", "3")


def main() -> None:
    """Run the contestants and print their times and ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--features", choices=["ngrams", "both"], default="ngrams")
    parser.add_argument("--plain", action="store_true", help="run the plain way too, where it is not hours")
    parser.add_argument("--data", type=Path, default=DATA, help="folder with train.jsonl.gz and valid.jsonl.gz")
    options = parser.parse_args()
    if not (options.data / "train.jsonl.gz").is_file():
        sys.exit(f"{options.data}: no train.jsonl.gz there. Name its folder with --data")
    files = [str(options.data / "train.jsonl.gz"), "--valid", str(options.data / "valid.jsonl.gz")]
    settings = ["--set", f"features.kind={options.features}"]
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        fit = measure(["fit", *files, *settings, "--out", str(place / "run")], place / "cache")
        say(f"one fit from raw text, {options.features}", fit, fit)
        wanted = ["--caps", "none,6,7,8", "--gammas", "none,2,3", "--workers", "2", "--out", str(place / "grid")]
        grid = measure(["grid", *files, *settings, *wanted], place / "cache")
        say("the grid of 12 points, features cached", grid, fit)
        say("from raw text to the verdict, both", (fit[0] + grid[0], max(fit[1], grid[1])), fit)
        if options.plain:
            run_plain(files, settings, place, fit, grid, times=1 if options.features == "both" else 12)


def run_plain(
    files: list[str],
    settings: list[str],
    place: Path,
    fit: tuple[float, int],
    grid: tuple[float, int],
    *,
    times: int,
) -> None:
    """Fit each point from raw text by itself."""
    points = [point_flags(cap, gamma) for cap in CAPS for gamma in GAMMAS]
    seconds, peak = 0.0, 0
    for number, flags in enumerate(points[:times]):
        command = ["fit", *files, *settings, *flags, "--out", str(place / f"plain{number}")]
        found = measure(command, place / f"plain_cache{number}")
        seconds, peak = seconds + found[0], max(peak, found[1])
    what = "12 fits" if times == 12 else f"{times} fit x 12"
    total = seconds * len(points) / times
    say(f"the plain way, {what}", (total, peak), fit)
    print(f"the plain way takes {total / grid[0]:.1f} times the grid")


def point_flags(cap: str, gamma: str | None) -> list[str]:
    """Return the flags of `fit` for one point."""
    return ["--cap", cap, *(["--loss", "bce"] if gamma is None else ["--loss", "focal", "--gamma", gamma])]


def measure(arguments: list[str], cache: Path) -> tuple[float, int]:
    """Run `hyperfocal classify` with the arguments; return its wall seconds and the peak memory of its processes."""
    environment = os.environ | {"HYPERFOCAL_CACHE": str(cache), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "hyperfocal", "classify", *arguments]
    started, peak = time.perf_counter(), 0
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, start_new_session=True) as process:
        while process.poll() is None:
            peak = max(peak, memory_of_session(process.pid))
            time.sleep(0.5)
    if process.returncode:
        sys.exit(f"{' '.join(command)} ended with {process.returncode}")
    return time.perf_counter() - started, peak


def memory_of_session(session: int) -> int:
    """Return the bytes that the processes of a session hold, shared pages in equal parts (PSS)."""
    total = 0
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(status.read_text().rsplit(")", 1)[1].split()[3]) == session:
                rollup = (status.parent / "smaps_rollup").read_text()
                total += 1024 * int(next(line for line in rollup.splitlines() if line.startswith("Pss:")).split()[1])
        except (OSError, StopIteration, ValueError):
            continue
    return total


def say(what: str, found: tuple[float, int], fit: tuple[float, int]) -> None:
    """Print one line: what, seconds, ratio to one fit, peak memory."""
    seconds, peak = found
    print(f"{what:<45} {seconds:8.1f} s  {seconds / fit[0]:6.2f} x  {peak / 2**30:5.2f} GiB", flush=True)


if __name__ == "__main__":
    main()
