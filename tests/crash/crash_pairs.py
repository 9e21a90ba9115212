"""Two commands that write to one folder at the same time: the first is held at a call until the second has ended.

The outcome must be that of one after the other, or one is refused and the other one's outcome is there.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from itertools import combinations_with_replacement
from pathlib import Path

from crash_cases import BLOCKS, FIT, GRID, Case, begin, words
from crash_checks import Facts, Trial, differences, impolite
from crash_points import Harness
from crash_shim import GO, HOLD, Call, Ended, Plan, Running
from crash_states import Archive, State

HOLDER = re.compile(r"process \d+ on \S+, since .* is writing to it")
EARLY = re.compile(rf"{HOLDER.pattern}|another process is writing to it")  # its name may not yet be in the lock
WAIT_SECONDS = 8  # for the second command, which may wait for the first


@dataclass(frozen=True)
class Group:
    """Commands that write to one place. `two` has another form of each, so that a lost one shows."""

    subject: str
    begin: tuple[tuple[str, str], ...]
    one: dict[str, str]
    two: dict[str, str]


RUN = {
    "fit": FIT,
    "fit --resume": f"{FIT} --resume",
    "fit --overwrite": f"{FIT} --overwrite --seed 5",
    "update": "recommend update BOX/run GOOD/more.csv --epochs 1",
    "save": "!save GOOD/new BOX/run",
    "report": "report BOX/run",
}
OTHER = RUN | {
    "fit": f"{FIT} --seed 6",
    "fit --overwrite": f"{FIT} --overwrite --seed 6 --history 3",
    "update": "recommend update BOX/run GOOD/other.csv --epochs 2",
    "save": "!save GOOD/updated BOX/run",
}
GROUPS = {
    "no run": Group("run", (), {"fit": RUN["fit"]}, {"fit": OTHER["fit"]}),
    "unfinished run": Group(
        "run", (("cut", "run"),), {n: RUN[n] for n in ("fit --resume", "fit --overwrite")},
        {n: OTHER[n] for n in ("fit --resume", "fit --overwrite")},
    ),
    "run": Group(
        "run", (("old", "run"),), {n: RUN[n] for n in ("fit --overwrite", "update", "save", "report")},
        {n: OTHER[n] for n in ("fit --overwrite", "update", "save", "report")},
    ),
    "export": Group(
        "export", (("plain", "export"),), {"export": "export GOOD/old --safetensors BOX/export --overwrite"},
        {"export": "export GOOD/new --safetensors BOX/export --overwrite"},
    ),
    "predictions": Group(
        "out.csv", (), {
            "predict": "recommend predict GOOD/old GOOD/log.csv --out BOX/out.csv",
            "predict --block": f"{BLOCKS} --out BOX/out.csv",
        }, {
            "predict": "recommend predict GOOD/new GOOD/log.csv --out BOX/out.csv",
            "predict --block": f"{BLOCKS.replace('old', 'new')} --out BOX/out.csv",
        },
    ),
    "grid": Group("grid", (), {"grid": GRID, "report": "report BOX/grid"}, {"grid": GRID, "report": "report BOX/grid"}),
}  # fmt: skip
PAIRS = [
    (group, one, two)
    for group, facts in GROUPS.items()
    for a, b in combinations_with_replacement(facts.one, 2)
    for one, two in dict.fromkeys(((a, b), (b, a)))
    if (one, two) != ("report", "report") or group == "run"
]


class HoldAt(Plan):
    """Holds the command at one call."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    def before(self, call: Call) -> str:
        return HOLD if call.number == self.number else GO


@dataclass(frozen=True)
class Outcome:
    """The commands that succeeded, and what is in the folder then."""

    succeeded: tuple[bool, bool]
    state: State


class Pair:
    """Two commands on one place, and what is allowed."""

    def __init__(self, harness: Harness, group: str, one: str, two: str) -> None:
        self.harness, self.group = harness, GROUPS[group]
        self.commands = (self.group.one[one], self.group.two[two])
        self.case = Case(self.commands[0], "pair", self.group.subject, self.group.begin)
        self.archive = Archive()
        self.box = harness.box.with_name("pair")
        self.allowed = [self._serial(order) for order in ((0,), (1,), (0, 1), (1, 0))]
        self.answers = {self._answer(outcome.state) for outcome in self.allowed} | {self._answer(self._first())}

    def calls(self) -> int:
        """Return the number of calls of the first command."""
        plan = Plan()
        self._begin()
        self._run(0, plan).end()
        return len(plan.calls)

    def overlap(self, number: int) -> list[str]:
        """Hold the first command at a call until the second has ended; return what is wrong in the end."""
        self._begin()
        reader = None
        if self.group.subject == "run":
            reader = self.harness.lab.begin(
                ["!follow", str(self.box / "run"), str(self.box.with_name("stop"))], self.box
            )
        first = self._run(0, HoldAt(number))
        while first.held is None and first.step(0.05):
            pass
        second = self._run(1)
        early = first.held and any(path.endswith("/.lock") for path in first.held[1].paths)
        deadline = time.monotonic() + WAIT_SECONDS
        running = True
        while running and time.monotonic() < deadline:
            running = second.step(0.05)
        if first.held:
            first.release()
        left = [one for one, runs in ((first, first.status is None), (second, running)) if runs]
        while left:
            left = [one for one in left if one.step(0.05)]
        if first.status is not None and first.selector.get_map():
            first.end()
        ended = (first.ended(), second.ended())
        problems = [problem for one in ended for problem in impolite(one)]
        problems += self._judge(ended, EARLY if early else HOLDER)
        return problems + (self._read(reader) if reader else [])

    def _judge(self, ended: tuple[Ended, Ended], holder: re.Pattern[str]) -> list[str]:
        codes = (ended[0].code == 0, ended[1].code == 0)
        state = self.archive.take(self.box)
        said = "".join(one.said for one in ended)
        if not any(codes):
            return [f"both are refused: {said}"]
        allowed = [outcome for outcome in self.allowed[2:] if outcome.succeeded == codes]
        if not all(codes):  # the other one alone, too
            allowed.append(self.allowed[codes.index(True)])
            refused = ended[codes.index(False)]
            if len(allowed) == 1 and not holder.search(refused.err):
                return [f"the refusal does not say who writes: {refused.said}"]
        reasons = [self._unlike(outcome.state, state) for outcome in allowed]
        if [] not in reasons:
            return [
                f"{codes} ends as no order of the two: {min(reasons, key=len, default=['nothing is allowed'])}: {said}"
            ]
        return []

    def _unlike(self, expected: State, state: State) -> list[str]:
        facts = Facts(self.case, expected, expected, (), frozenset())
        return differences(Trial(self.harness.lab, self.harness.good, facts, self.archive, state), state)

    def _read(self, reader: Running) -> list[str]:
        self.box.with_name("stop").touch()
        ended = reader.end()
        self.box.with_name("stop").unlink()
        lines = ended.out.splitlines(keepends=True)
        wrong = [line for line in lines if not line.startswith("error: ") and line not in self.answers]
        problems = [f"a reader gets other answers than any run has: {line}" for line in wrong]
        whole = all("--overwrite" not in command and "fit" not in command for command in self.commands)
        if whole:
            problems += [f"a reader gets an error: {line}" for line in lines if line.startswith("error: ")]
        return problems + impolite(ended)

    def _serial(self, order: tuple[int, ...]) -> Outcome:
        self._begin()
        codes = [False, False]
        for number in order:
            codes[number] = self._run(number).end().code == 0
        return Outcome((codes[0], codes[1]), self.archive.take(self.box))

    def _first(self) -> State:
        self._begin()
        return self.archive.take(self.box)

    def _answer(self, state: State) -> str:
        facts = Facts(self.case, state, state, (), frozenset())
        ended, _ = Trial(self.harness.lab, self.harness.good, facts, self.archive, state).run("!load BOX/run")
        return ended.out

    def _begin(self) -> None:
        begin(self.case, self.box, self.harness.good)

    def _run(self, number: int, plan: Plan | None = None) -> Running:
        command = words(self.commands[number], self.box, self.harness.good)
        return self.harness.lab.begin(command, self.box, plan)


def make_others(harness: Harness) -> None:
    """Write what only these tests need: other new events, and a run that is updated with them."""
    good = harness.good
    if (good / "other.csv").exists():
        return
    text = (good / "more.csv").read_text()
    (good / "other.csv").write_text(text.replace(",i3,", ",third,"))
    command = "recommend update GOOD/new GOOD/other.csv --epochs 1 --out GOOD/updated"
    ended = harness.lab.run(words(command, Path(good), good), good)
    assert ended.code == 0, ended.said
