"""Does a killed command end as if it had never been killed?

    python benchmarks/kill_resume.py [--kills 50] [--grid-kills 20]

A training is killed (kill -9) at random moments, every fifth time inside the writing of a checkpoint, each time in a
new folder, and resumed; then weights, baselines, metrics and predictions are compared, byte by byte, with those of a
training that nobody disturbed. A grid that two commands with two workers each are at is killed again and again, both
process groups, and started again; then every point has to be in its store once, with the numbers of an undisturbed
grid, and none may have been reported twice. Made-up data; one thread each. Run it with nothing else running: moments
are drawn from the time that the undisturbed command takes.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

from hyperfocal.data.synthetic_logs import make_challenges

SAME = ("model.safetensors", "baselines.safetensors", "metrics.json", "vocabulary.json", "predictions.csv")
FIT = ["--model", "transformer", "--set", "model.embedding_width=16", "--set", "train.epochs=4"]
FIT += ["--set", "train.batch_size=16", "--set", "train.patience=0", "--set", "train.checkpoint_seconds=0"]
GRID = ["--encoders", "gru,mean", "--losses", "softmax,bce", "--axis", "model.dropout=0,0.1,0.2", "--seeds", "2"]
GRID += ["--set", "model.embedding_width=8", "--set", "train.epochs=2", "--set", "train.patience=0", "--workers", "2"]
LINE = re.compile(r"^\[\d+/\d+\] (.*) seed (\d+):")


def main() -> None:
    """Run both parts and print what was found; end with 1 if anything differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50, help="of a training  [50]")
    parser.add_argument("--grid-kills", type=int, default=20, help="of a grid  [20]")
    parser.add_argument("--seed", type=int, default=0, help="of the moments  [0]")
    options = parser.parse_args()
    random.seed(options.seed)
    with TemporaryDirectory() as place:
        folder = Path(place)
        data = make_challenges(users=1_500, challenges=200, seed=0)
        data.train.write_csv(folder / "log.csv")
        data.test.write_csv(folder / "test.csv")
        good = kill_trainings(folder, options.kills) & kill_grid(folder, options.grid_kills)
    sys.exit(0 if good else 1)


def kill_trainings(folder: Path, kills: int) -> bool:
    """Kill and resume trainings; return whether all ended as the undisturbed one."""
    began = time.monotonic()
    run(fit(folder, "whole"), folder)
    expected, seconds = outcome(folder, "whole"), time.monotonic() - began
    same, during, early = 0, 0, 0
    for number in range(kills):
        name = f"killed{number}"
        process = start(fit(folder, name), folder)
        saving = number % 5 == 4
        wait_for_save(process, folder / name / "checkpoints") if saving else time.sleep(random.uniform(0, seconds))
        during += saving and process.poll() is None
        early += not (folder / name / "checkpoints").exists()
        kill(process)
        run([*fit(folder, name), "--resume"], folder)
        found = outcome(folder, name)
        same += found == expected
        if differing := [part for part in SAME if found[part] != expected[part]]:
            print(f"kill {number}: other bytes in {', '.join(differing)}", flush=True)
    print(f"trainings: {same} of {kills} kills resumed to the same bytes ({during} inside a save, {early} before one)")
    return same == kills


def kill_grid(folder: Path, kills: int) -> bool:
    """Kill one grid again and again; return whether it ended as the undisturbed one."""
    began = time.monotonic()
    whole = run(grid(folder, "grid"), folder)
    expected, seconds = results(folder / "grid"), time.monotonic() - began
    reported = Counter[tuple[str, str]]()
    for _ in range(kills):
        processes = [start(grid(folder, "killed"), folder, f"said{number}") for number in range(2)]
        time.sleep(random.uniform(0.5, 1) * max(seconds / 4, 3))
        reported += sum((finished(kill(process, f"said{n}")) for n, process in enumerate(processes)), Counter())
    reported += finished(run(grid(folder, "killed"), folder))
    found = results(folder / "killed")
    twice = [point for point, count in reported.items() if count > 1]
    good = found == expected and not twice
    numbers = "the numbers of an undisturbed grid" if found == expected else "OTHER numbers than an undisturbed grid"
    points = f"{len(found)} of {len(finished(whole))} points"
    print(f"grid: after {kills} kills {points}, with {numbers}; reported twice: {len(twice)}")
    return good


def fit(folder: Path, name: str) -> list[str]:
    """Return the command of a training."""
    return ["recommend", "fit", str(folder / "log.csv"), "--out", str(folder / name), *FIT]


def grid(folder: Path, name: str) -> list[str]:
    """Return the command of a grid."""
    return ["recommend", "grid", str(folder / "log.csv"), "--out", str(folder / name), *GRID]


def start(arguments: list[str], folder: Path, said: str = "said") -> subprocess.Popen[str]:
    """Start a command in a process group of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "hyperfocal", *arguments]
    with (folder / said).open("w") as out:
        return subprocess.Popen(command, stdout=out, stderr=out, env=environment, start_new_session=True, text=True)


def run(arguments: list[str], folder: Path) -> str:
    """Run a command to its end and return what it said."""
    process = start(arguments, folder)
    code, said = process.wait(), (folder / "said").read_text()
    if code:
        sys.exit(f"hyperfocal {' '.join(arguments)} ended with {code}:\n{said}")
    return said


def kill(process: subprocess.Popen[str], said: str = "said") -> str:
    """Kill a command and all its workers; return what it had said."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    arguments = process.args
    assert isinstance(arguments, list)
    return (Path(str(arguments[arguments.index("--out") + 1])).parent / said).read_text()


def wait_for_save(process: subprocess.Popen[str], checkpoints: Path) -> None:
    """Return in the middle of the writing of some checkpoint, or when the process has ended."""
    left = random.randint(1, 20)
    while left and process.poll() is None:
        if any(checkpoints.glob(".*.last.safetensors")):
            left -= 1


def outcome(folder: Path, name: str) -> dict[str, bytes]:
    """Return the bytes of what a run has learnt, and of its predictions."""
    run_folder = folder / name
    run(
        ["recommend", "predict", str(run_folder), str(folder / "test.csv"), "--out", f"{run_folder}/predictions.csv"],
        folder,
    )
    return {part: (run_folder / part).read_bytes() for part in SAME}


def results(folder: Path) -> list[tuple[str, int, str]]:
    """Return name, seed and numbers of the points that are done."""
    with closing(sqlite3.connect(folder / "grid.sqlite")) as store:
        rows = store.execute("SELECT name, seed, numbers FROM results WHERE status = 'done' ORDER BY name, seed")
        return rows.fetchall()


def finished(said: str) -> Counter[tuple[str, str]]:
    """Return how often each point was reported."""
    return Counter((found[1], found[2]) for line in said.splitlines() if (found := LINE.match(line)))


if __name__ == "__main__":
    main()
