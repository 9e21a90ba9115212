"""A full disk, a broken one and too many open files at every call; too little memory at every step of a training."""

import errno

import pytest
from crash_cases import CASES, begin, words
from crash_checks import CHECKS, Facts, Trial, differences_in_cache, impolite
from crash_known import assert_none
from crash_points import ALL, Fault, fails
from crash_states import Entry, State, usual

WAYS = [(errno.ENOSPC, True), (errno.EIO, False), (errno.EMFILE, False)]  # errno, and whether from then on
WAYS += [(errno.ENOSPC, False), (errno.EIO, True), (errno.EMFILE, True)] if ALL else []
SOME = {"recommend fit": 0.7, "recommend update": 0.4, "predict --block": 0.2}
MANY = [
    "recommend fit", "recommend fit, streamed", "classify fit", "recommend fit --overwrite", "recommend update",
    "recommend update, no exchange", "save over a run", "save over a run of labels", "predict", "predict --block",
    "predict --block, parquet", "export --safetensors", "report", "report, empty cache",
]  # fmt: skip


def jobs(harness, name):
    """Return the calls to fail: of those with the same name and usual paths, the first, or the first and the last."""
    chosen = {}
    for call in harness.record(name).calls:
        chosen.setdefault((call.name, tuple(map(usual, call.paths))), []).append(call)
    calls = [call for same in chosen.values() for call in dict.fromkeys((same[0], same[-1] if ALL else same[0]))]
    return [(call.number, code, on) for code, on in WAYS for call in calls if fails(call, code)]


@pytest.mark.parametrize("name", SOME)
def test_some_failures(harness, name):
    every = jobs(harness, name)
    assert_none(harness.failures(name, [every[int(SOME[name] * len(every))]], "failure"), full=False, case=name)


@pytest.mark.slow
@pytest.mark.parametrize("name", MANY)
def test_every_failure(harness, name):
    assert_none(harness.failures(name, jobs(harness, name), "failure"), full=False, case=name)


def memory(harness, name, steps):
    """Raise MemoryError in each of some steps of a training; return the faults, and the steps that were reached."""
    recorded, case, faults, reached = harness.record(name), CASES[name], [], 0
    states = []
    for step in steps:
        begin(case, harness.box, harness.good)
        ended = harness.lab.run(words(case.argv, harness.box, harness.good), harness.box, CRASH_MEMORY=str(step))
        where = f"MemoryError at step {step}"
        faults += [Fault(name, where, "the command itself", problem) for problem in impolite(ended)]
        if ended.code == 0:
            break
        reached += 1
        states.append((recorded.archive.take(harness.box), where))
    faults += harness.check(name, recorded, states)
    harness.tally.add(name, "memory", reached, reached, reached * len(CHECKS[case.kind]), len(faults))
    assert reached
    return faults


@pytest.mark.parametrize("name", ["recommend fit"])
def test_too_little_memory_at_a_step(harness, name):
    assert_none(memory(harness, name, [2]), full=False, case=name)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["recommend fit, many steps", "classify fit", "recommend fit --overwrite"])
def test_too_little_memory_at_every_step(harness, name):
    assert_none(memory(harness, name, range(1, 60)), full=False, case=name)


def test_a_trial_sees_a_damaged_run(harness):
    """The checks themselves can fail: a weight that is changed is no run that is whole."""
    recorded = harness.record("recommend update")
    begin(CASES["recommend update"], harness.box, harness.good)
    with (harness.box / "run" / "model.safetensors").open("r+b") as model:
        model.seek(-1, 2)
        model.write(b"\x7f")
    state = recorded.archive.take(harness.box)
    trial = Trial(harness.lab, harness.good, recorded.facts, recorded.archive, state)
    problems = [problem for check in CHECKS["update"] for problem in check(trial)]
    assert any("neither the old run nor the new one loads" in problem for problem in problems)
    assert any("claims damage" in problem for problem in problems)


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, []),
        ({"cache/a": None, "cache/a/x.npy": None, "cache/a/entry.json": None}, []),
        ({"cache/a/x.npy": None}, ["lacks cache/a/x.npy"]),
        ({"cache/a/x.npy": Entry("f", 0o600, "3")}, ["cache/a/x.npy: other bytes"]),
        ({"cache/b": Entry("d", 0o700, "")}, ["leaves cache/b"]),
    ],
)
def test_what_is_wrong_in_a_cache(changed, expected):
    """An entry may be missing; one that is there is whole."""
    names = {"cache": "", "cache/a": "", "cache/a/x.npy": "1", "cache/a/entry.json": "2"}
    last = {name: Entry("f" if content else "d", 0o700, content) for name, content in names.items()}
    state = {name: entry for name, entry in (last | changed).items() if entry is not None}
    facts = Facts(CASES["classify fit"], State({}, {}), State(last, {}), (), frozenset())
    assert differences_in_cache(facts, State(state, {})) == expected
