"""Check a state of the watched folder: run every sensible next command on a copy of it, and return what is wrong.

A check gets a `Trial` and returns problems as texts; no problem is an empty list.
"""

from __future__ import annotations

import re
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Set
from contextlib import closing
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

from crash_cases import Case, words
from crash_shim import Ended, Lab, WithoutCalls
from crash_states import Archive, Entry, State, usual

TIMED = (  # relative to BOX; their bytes hold seconds, or checksums of those
    "*history.jsonl", "*evidence.json", "*report.html", "*manifest.json", "*/checkpoints/*", "*.sqlite", "*/table.csv",
    "*/table.json", "*/table.md", "*tensorboard*", "*/.lock",
)  # fmt: skip
DAMAGE = re.compile(r"damage|not as (it|they) w|[Rr]estore|checksum|differs", re.IGNORECASE)


@dataclass(frozen=True)
class Facts:
    """What an undisturbed run of a case begins and ends with, and the answers of the old and the new run."""

    case: Case
    first: State
    last: State
    answers: tuple[str, ...]  # of the old and the new run; fewer where there is none
    timed: frozenset[str]  # relative paths whose bytes differ from run to run, or from folder to folder


@dataclass(frozen=True)
class Trial:
    """A state to check; each command of a check runs on a fresh copy."""

    lab: Lab
    good: Path
    facts: Facts
    archive: Archive
    state: State
    exact: bool = True  # the state is of the same run of the command as the facts, so times are equal too

    def run(self, command: str) -> tuple[Ended, State]:
        """Run a command on a copy of the state; return how it ended, and the state after it."""
        with tempfile.TemporaryDirectory(dir=self.lab.folder, ignore_cleanup_errors=True) as place:
            box = Path(place) / "box"
            self.archive.restore(self.state, box)
            plan = WithoutCalls(self.case.absent) if self.case.absent else None
            ended = self.lab.run(words(command, box, self.good), box, plan)
            return ended, self.archive.take(box)

    @property
    def case(self) -> Case:
        return self.facts.case


def impolite(ended: Ended) -> list[str]:
    """Return what is wrong with the end of a command: it must succeed, or end with code 2 and one line `error: ...`."""
    problems = []
    if ended.hung:
        problems.append("hangs")
    elif ended.code not in (0, 2):
        problems.append(f"ends with code {ended.code}")
    if "Traceback" in ended.out + ended.err:
        problems.append("prints a traceback")
    errors = sum(line.startswith("error: ") for line in ended.err.splitlines())
    if ended.code == 2 and errors != 1:
        problems.append(f"prints {errors} errors")
    return [f"{problem}: {ended.said}" for problem in problems]


def part(state: State, place: str) -> dict[str, Entry]:
    """Return the files of a run, export or file: none that is hidden or of the user, no checkpoints, no report."""
    inside = state.below(place)
    return {
        name: entry
        for name, entry in inside.items()
        if not any(step.startswith(".") for step in name.split("/"))
        and not name.startswith(("checkpoints", "report.html", "tensorboard"))
        and not (entry.kind == "d" and name == "")
        and "of the user" not in name
    }


def whole(trial: Trial, state: State) -> str:
    """Return "old" or "new" if the subject is exactly that, "none" if there is nothing, else "mixed"."""
    subject = trial.case.subject
    now, old, new = (part(one, subject) for one in (state, trial.facts.first, trial.facts.last))
    if not trial.exact:
        now, old, new = (untimed(one, trial, subject) for one in (now, old, new))
    return "new" if now == new else "old" if now == old and old else "none" if not now else "mixed"


def untimed(entries: dict[str, Entry], trial: Trial, place: str) -> dict[str, Entry]:
    """Return entries without the content of those whose bytes hold times."""
    return {
        name: Entry(entry.kind, entry.mode, "") if is_timed(f"{place}/{name}", trial.facts) else entry
        for name, entry in entries.items()
    }


def is_timed(name: str, facts: Facts) -> bool:
    return name in facts.timed or any(fnmatch(name, pattern) for pattern in TIMED)


def differences(trial: Trial, state: State) -> list[str]:
    """Return how a state differs from the end of an undisturbed run, in names and untimed bytes."""
    last = trial.facts.last
    here, there = ({usual(name): entry for name, entry in one.entries.items()} for one in (state, last))
    problems = leftovers(here.keys() - there.keys())
    problems += [f"lacks {name}" for name in sorted(there.keys() - here.keys())]
    for name in sorted(here.keys() & there.keys()):
        one, two = here[name], there[name]
        if (one.kind, one.mode) != (two.kind, two.mode):
            problems.append(f"{name}: {one.kind} {one.mode:o} in place of {two.kind} {two.mode:o}")
        elif one.content != two.content and not is_timed(name, trial.facts):
            problems.append(f"{name}: other bytes")
        elif name.endswith(".sqlite") and results(trial, one) != results(trial, two):
            problems.append(f"{name}: other results")
    return problems


def results(trial: Trial, store: Entry) -> list[tuple[object, ...]]:
    """Return the results in the store of a grid."""
    with closing(sqlite3.connect(":memory:")) as database:
        database.deserialize(trial.archive.contents[store.content])
        return database.execute("SELECT name, seed, status, numbers FROM results ORDER BY name, seed").fetchall()


def differences_in_cache(facts: Facts, state: State) -> list[str]:
    """Return what is wrong with the entries of the cache that are there; a whole entry may be missing."""
    here, there = state.below("cache"), facts.last.below("cache")
    problems = [f"leaves cache/{name}" for name in sorted(here.keys() - there.keys())]
    problems += [
        f"cache/{name}: other bytes" for name in sorted(here.keys() & there.keys()) if here[name] != there[name]
    ]
    missing = [name for name in sorted(there.keys() - here.keys()) if there[name].kind != "d"]
    return problems + [f"lacks cache/{name}" for name in missing if str(PurePosixPath(name).parent) in here]


def leftovers(names: Set[str]) -> list[str]:
    """Return a problem per name, except names inside a folder that is one."""
    return [f"leaves {name}" for name in sorted(names) if not any(parent in names for parent in parents(name))]


def parents(name: str) -> list[str]:
    return [str(parent) for parent in PurePosixPath(name).parents]


def check_verify(trial: Trial) -> list[str]:
    """`verify` passes a whole run and nothing else, and calls no state damaged."""
    ended, after = trial.run(f"verify BOX/{trial.case.subject}")
    now = whole(trial, after)
    if now == "old" and "manifest.json" not in part(trial.facts.first, trial.case.subject):
        now = "unfinished"
    problems = impolite(ended)
    if ended.code == 0 and now not in ("old", "new"):
        problems.append(f"verify gives the all-clear to a run that is {now}: {ended.said}")
    if ended.code == 2 and now in ("old", "new"):
        problems.append(f"verify refuses the {now} run, which is whole: {ended.said}")
    if ended.code == 2 and DAMAGE.search(ended.err):
        problems.append(f"verify claims damage after a kill: {ended.said}")
    return problems


def check_load(trial: Trial) -> list[str]:
    """A run that loads is the old one or the new one; where one is replaced, one of them loads."""
    problems = []
    for action in ("!load", "!serve"):
        ended, _ = trial.run(f"{action} BOX/{trial.case.subject}")
        problems += impolite(ended)
        if ended.code == 0 and action == "!load" and ended.out not in trial.facts.answers:
            problems.append(f"the loaded run is neither the old one nor the new one: {ended.said}")
        if ended.code and trial.case.kind in ("update", "replace"):
            problems.append(f"{action}: neither the old run nor the new one loads: {ended.said}")
    return problems


def check_report(trial: Trial) -> list[str]:
    return impolite(trial.run(f"report BOX/{trial.case.subject}")[0])


def check_again(trial: Trial) -> list[str]:
    """The command that continues ends as an undisturbed one: same names, same bytes, nothing left."""
    ended, after = trial.run(trial.case.again or trial.case.argv)
    if ended.code:
        return [*impolite(ended), f"cannot be continued: {ended.said}"]
    return impolite(ended) + differences(trial, after)


def check_plain(trial: Trial) -> list[str]:
    """The first command again succeeds as undisturbed, or refuses and changes nothing."""
    if trial.case.argv == (trial.case.again or trial.case.argv) and trial.case.kind != "new":
        return []  # `check_again` has run it
    ended, after = trial.run(trial.case.argv)
    problems = impolite(ended)
    if ended.code == 0:
        return problems + differences(trial, after)
    if part(after, trial.case.subject) != part(trial.state, trial.case.subject):
        problems.append(f"is refused, and has changed the run: {ended.said}")
    return problems


def check_resume(trial: Trial) -> list[str]:
    """After a kill of `--overwrite`, `--resume` completes the new run, unless the old one is whole: it stays that."""
    ended, after = trial.run(trial.case.argv.replace("--overwrite", "--resume"))
    problems = impolite(ended)
    if ended.code == 0 and whole(trial, trial.state) == "old":
        return problems + ([] if whole(replace(trial, exact=False), after) == "old" else differences(trial, after))
    if ended.code == 0:
        return problems + differences(trial, after)
    if whole(trial, after) not in ("old", "none"):
        problems.append(f"the begun run cannot be resumed: {ended.said}")
    return problems


def check_update(trial: Trial) -> list[str]:
    """If the old run is there, `update` again ends as an undisturbed one; otherwise nothing but the new one is left."""
    ended, after = trial.run(trial.case.argv)
    problems = impolite(ended)
    loaded, _ = trial.run(f"!load BOX/{trial.case.subject}")
    if loaded.out == trial.facts.answers[0]:
        return problems + ([f"cannot be repeated: {ended.said}"] if ended.code else differences(trial, after))
    return problems + leftovers(after.names - trial.facts.last.names)


def check_output(trial: Trial) -> list[str]:
    """The output is the old one or the new one, on the disk itself."""
    now = whole(trial, trial.state)
    return (
        [f"the output is {now}"]
        if now == "mixed" or (now == "none" and part(trial.facts.first, trial.case.subject))
        else []
    )


def check_file(trial: Trial) -> list[str]:
    """As `check_output`, for one file; a partial one is neither."""
    subject = trial.case.subject
    allowed = [one.entries.get(subject) for one in (trial.facts.first, trial.facts.last)]
    return [] if trial.state.entries.get(subject) in allowed else ["the file is neither the old one nor the new one"]


def check_grid(trial: Trial) -> list[str]:
    """`report` of a grid in any state, and its winner, if that loads."""
    problems = impolite(trial.run(f"report BOX/{trial.case.subject}")[0])
    winner, _ = trial.run(f"!load BOX/{trial.case.subject}/winner")
    problems += impolite(winner)
    if winner.code == 0 and winner.out not in trial.facts.answers:
        problems.append(f"the winner that loads is not the winner: {winner.said}")
    verified, _ = trial.run(f"verify BOX/{trial.case.subject}/winner")
    problems += impolite(verified)
    if verified.code == 0 and winner.code:
        problems.append(f"verify gives the all-clear to a winner that does not load: {verified.said}")
    if verified.code == 2 and DAMAGE.search(verified.err):
        problems.append(f"verify claims damage after a kill: {verified.said}")
    return problems


Check = Callable[[Trial], list[str]]
CHECKS: dict[str, tuple[Check, ...]] = {  # kind of a case -> what is checked in each state
    "fit": (check_again, check_verify, check_load, check_plain, check_report),
    "overwrite": (check_again, check_verify, check_load, check_resume, check_report),
    "update": (check_update, check_verify, check_load, check_report),
    "replace": (check_again, check_verify, check_load, check_report),
    "new": (check_verify, check_load, check_plain, check_report),
    "file": (check_again, check_file, check_plain),
    "folder": (check_again, check_output, check_plain),
    "nothing": (check_again,),
    "grid": (check_again, check_grid),
    "demo": (check_again,),
}


def clean_temporary(lab: Lab) -> list[str]:
    """Return what commands have left in the temporary folder, and remove it."""
    left = sorted(path.name for path in (lab.folder / "tmp").iterdir())
    shutil.rmtree(lab.folder / "tmp")
    (lab.folder / "tmp").mkdir()
    return left
