"""Every crash point of a command: one run under snapshots, then all checks on each distinct state."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from crash_cases import CASES, Case, begin, make_labels, words
from crash_checks import CHECKS, Facts, Trial, differences, differences_in_cache, impolite, is_timed
from crash_shim import GO, KILL, Call, Ended, Lab, Plan, WithoutCalls
from crash_states import Archive, State, usual

PASSING = re.compile(r"leaves (.*/)?\.[^/]*$")  # a temporary folder that could not be removed; the next command does
CACHED = re.compile(r"((lacks|leaves) )?cache/")  # a difference in the cache
UNUSED = re.compile(r"cache \S+: is not used")  # the warning of a command that cannot write to its cache
PARALLEL = int(os.environ.get("CRASH_PARALLEL", "2"))  # commands at a time
ALL = bool(os.environ.get("CRASH_ALL"))  # whether states that differ only inside temporary folders are all checked
MOST = 60  # states of a slow command to check, unless ALL


@dataclass(frozen=True)
class Fault:
    """What is wrong at one point of a case."""

    case: str
    where: str  # the call
    check: str
    problem: str

    def __str__(self) -> str:
        return f"[{self.case}] {self.where}\n    {self.check}: {self.problem}"


@dataclass
class Tally:
    """The numbers of a run of this harness, for docs/trust.md."""

    rows: list[dict[str, object]] = field(default_factory=list)

    def add(self, case: str, what: str, points: int, states: int, commands: int, faults: int) -> None:
        self.rows.append(
            {"command": case, "what": what, "points": points, "states": states, "checks": commands, "faults": faults}
        )

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(self.rows, indent=2) + "\n")

    def table(self) -> str:
        lines = [f"{'command':<40} {'what':<22} {'points':>7} {'states':>7} {'checks':>7} {'faults':>7}"]
        for row in [*self.rows, self._total()]:
            lines.append("{command:<40} {what:<22} {points:>7} {states:>7} {checks:>7} {faults:>7}".format(**row))
        return "\n".join(lines)

    def _total(self) -> dict[str, object]:
        total: Counter[str] = Counter()
        for row in self.rows:
            total.update({key: value for key, value in row.items() if isinstance(value, int)})
        return {"command": "all", "what": "", **{key: total[key] for key in ("points", "states", "checks", "faults")}}


class Snapshots(WithoutCalls):
    """Takes the state of a folder before each call; `unseen` has changes that no call explains."""

    def __init__(self, box: Path, archive: Archive, absent: tuple[str, ...] = ()) -> None:
        super().__init__(absent)
        self.box, self.archive = box, archive
        self.states: list[State] = []
        self.unseen: list[tuple[Call, set[str]]] = []
        self._last: State | None = None

    def before(self, call: Call) -> str:
        state = self.archive.take(self.box)
        if self._last is not None and state != self._last:
            changed = {*state.entries.items()} ^ {*self._last.entries.items()}
            self.unseen.append((call, {name for name, _ in changed}))
        self.states.append(state)
        self._last = state
        return super().before(call)

    def after(self, call: Call) -> None:
        self._last = self.archive.take(self.box)


class KillAt(WithoutCalls):
    """Kills before a call."""

    def __init__(self, number: int, absent: tuple[str, ...] = ()) -> None:
        super().__init__(absent)
        self.number = number

    def before(self, call: Call) -> str:
        return KILL if call.number == self.number else super().before(call)


class FailAt(Plan):
    """Fails a call, once or from then on; EMFILE fails only calls that open."""

    def __init__(self, number: int, code: int, *, on: bool = False) -> None:
        super().__init__()
        self.number, self.code, self.on, self.failed = number, code, on, 0

    def before(self, call: Call) -> str:
        reached = call.number >= self.number if self.on else call.number == self.number
        if reached and fails(call, self.code):
            self.failed += 1
            return f"fail {self.code}"
        return GO


def fails(call: Call, code: int) -> bool:
    """Return whether a call can fail with this errno."""
    if code == errno.EMFILE:
        return call.name in ("open+", "open", "creat")
    if code == errno.ENOSPC:
        return not call.name.startswith(("unlink", "rmdir", "remove", "fclose", "chmod", "fchmod"))
    return True


@dataclass
class Recorded:
    """One undisturbed run of a case under snapshots."""

    facts: Facts
    calls: list[Call]
    states: list[State]  # before each call, then the last one
    unseen: list[tuple[Call, set[str]]]
    archive: Archive
    ended: Ended

    def points(self) -> dict[str, list[int]]:
        """Return the distinct states: key -> the points that leave it."""
        places: dict[str, list[int]] = {}
        for number, state in enumerate(self.states):
            places.setdefault(state.key, []).append(number)
        return places

    def unlike(self, numbers: Iterable[int]) -> list[int]:
        """Return the first and the last point of those whose states differ only inside temporary folders."""
        places: dict[str, list[int]] = {}
        for number in numbers:
            places.setdefault(self.states[number].likeness, []).append(number)
        return sorted({number for same in places.values() for number in (same[0], same[-1])})

    def where(self, number: int) -> str:
        if number >= len(self.calls):
            return "the end"
        call = self.calls[number]
        names = [usual(path.partition("/box/")[2] or path) for path in call.paths]
        return f"call {number} of {len(self.calls)}: {call.name} {' '.join(names)}"


def timeless(state: State, facts: Facts) -> str:
    """Return a text that is equal for states of different runs that differ only in times and random names."""
    entries = {
        usual(name): (entry.kind, entry.mode, "" if is_timed(name, facts) else entry.content)
        for name, entry in state.entries.items()
    }
    return repr(sorted(entries.items()))


class Harness:
    """All that the tests use; records each case once."""

    def __init__(self, lab: Lab, good: Path, box: Path) -> None:
        self.lab, self.good, self.box = lab, good, box
        self.tally = Tally()
        self._recorded: dict[str, Recorded] = {}

    def record(self, name: str) -> Recorded:
        """Return the undisturbed run of a case."""
        if name not in self._recorded:
            self._recorded[name] = self._record(CASES[name])
        return self._recorded[name]

    def _record(self, case: Case) -> Recorded:
        archive = Archive()
        if "labels" in f"{case.argv} {case.begin}" or "texts" in case.argv:
            make_labels(self.lab, self.good)
        elsewhere = self.box.parent / "elsewhere" / "box"  # settings hold paths, as that of the demo's taxonomy
        begin(case, elsewhere, self.good)
        ended = self.lab.run(words(case.argv, elsewhere, self.good), elsewhere)
        assert ended.code == 0, ended.said
        other = archive.take(elsewhere)
        shutil.rmtree(elsewhere)
        begin(case, self.box, self.good)
        first = archive.take(self.box)
        plan = Snapshots(self.box, archive, case.absent)
        ended = self.lab.run(words(case.argv, self.box, self.good), self.box, plan)
        assert ended.code == 0, ended.said
        last = archive.take(self.box)
        timed = {n for n, entry in last.entries.items() if n in other.entries and other.entries[n] != entry}
        facts = Facts(case, first, last, (), frozenset(timed))
        answers = tuple(self._answer(facts, archive, state) for state in (first, last))
        facts = Facts(case, first, last, tuple(filter(None, answers)), frozenset(timed))
        return Recorded(facts, plan.calls, [*plan.states, last], plan.unseen, archive, ended)

    def _answer(self, facts: Facts, archive: Archive, state: State) -> str:
        place = f"{facts.case.subject}/winner" if facts.case.kind == "grid" else facts.case.subject
        ended, _ = Trial(self.lab, self.good, facts, archive, state).run(f"!load BOX/{place}")
        return ended.out if ended.code == 0 else ""

    def crash_points(self, name: str, part: Iterable[int] | None = None) -> list[Fault]:
        """Check the state that a kill before each call leaves; of a subset, those of the points in `part`."""
        recorded = self.record(name)
        chosen = None if part is None else set(part)
        places = [p for p in recorded.points().values() if chosen is None or chosen & set(p)]
        points = sum(map(len, places)) if chosen is None else len(places)
        tried = [p[0] for p in places] if chosen is not None or ALL else recorded.unlike(p[0] for p in places)
        if CASES[name].slow and not ALL:
            tried = tried[:: len(tried) // MOST + 1]
        jobs = [(recorded.states[number], recorded.where(number)) for number in tried]
        faults = self.check(name, recorded, jobs, exact=True)
        self.tally.add(name, "kill", points, len(places), len(jobs) * len(CHECKS[CASES[name].kind]), len(faults))
        return faults

    def check(
        self, name: str, recorded: Recorded, jobs: Sequence[tuple[State, str]], *, exact: bool = False
    ) -> list[Fault]:
        """Run all checks on states; a job is a state and how it came to be; `exact` as in `Trial`."""
        checks = CHECKS[CASES[name].kind]

        def one(job: tuple[State, str]) -> list[Fault]:
            trial = Trial(self.lab, self.good, recorded.facts, recorded.archive, job[0], exact)
            return [Fault(name, job[1], c.__name__, problem) for c in checks for problem in c(trial)]

        with ThreadPoolExecutor(PARALLEL) as pool:
            return [fault for faults in pool.map(one, jobs) for fault in faults]

    def killed(self, name: str, number: int, box: Path) -> State:
        """Return the state after a real SIGKILL before a call."""
        case = CASES[name]
        begin(case, box, self.good)
        self.lab.run(words(case.argv, box, self.good), box, KillAt(number, case.absent))
        return self.record(name).archive.take(box)

    def kill_often(self, name: str, number: int, box: Path, times: int = 3) -> State:
        """Kill the command before a call, and what continues it before the same call; return the state."""
        case = CASES[name]
        begin(case, box, self.good)
        for time in range(times):
            command = case.again if time and case.again else case.argv
            self.lab.run(words(command, box, self.good), box, KillAt(number, case.absent))
        return self.record(name).archive.take(box)

    def failed(self, name: str, plan: FailAt, box: Path) -> tuple[Ended, State]:
        """Return how a command ends whose call fails, and the state that it leaves."""
        case = CASES[name]
        begin(case, box, self.good)
        ended = self.lab.run(words(case.argv, box, self.good), box, plan)
        return ended, self.record(name).archive.take(box)

    def _differences(self, recorded: Recorded, state: State, ended: Ended) -> list[str]:
        """Return how a state differs from the usual end; a command that says so may leave out entries of the cache."""
        problems = differences(Trial(self.lab, self.good, recorded.facts, recorded.archive, state), state)
        if not UNUSED.search(ended.err):
            return problems
        return [one for one in problems if not CACHED.match(one)] + differences_in_cache(recorded.facts, state)

    def failures(self, name: str, jobs: Sequence[tuple[int, int, bool]], what: str) -> list[Fault]:
        """Fail calls: (number, errno, from then on); check how the command ends, and each state that it leaves."""
        recorded = self.record(name)
        states: dict[str, tuple[State, str]] = {}
        faults: list[Fault] = []
        for number, code, on in jobs:
            plan = FailAt(number, code, on=on)
            ended, state = self.failed(name, plan, self.box)
            how = f"{errno.errorcode[code]} {'from' if on else 'at'} {recorded.where(number)}"
            problems = impolite(ended)
            if ended.code == 0:
                less = {"lacks run/report.html"} if "annot" in ended.out + ended.err else set()  # and says so
                wrong = [
                    one
                    for one in self._differences(recorded, state, ended)
                    if not PASSING.match(one) and one not in less
                ]
                problems += [f"succeeds, but {one}" for one in wrong]
            faults += [Fault(name, how, "the command itself", problem) for problem in problems]
            states.setdefault(timeless(state, recorded.facts), (state, f"{how} ({ended.code})"))
        faults += self.check(name, recorded, list(states.values()))
        self.tally.add(name, what, len(jobs), len(states), len(states) * len(CHECKS[CASES[name].kind]), len(faults))
        return faults
