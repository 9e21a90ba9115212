"""A kill at every point: the state that it leaves, and every sensible next command.

`python -m pytest tests/crash -m slow -s` tries all points; the default subset tries a few. See README.md.
"""

import re

import pytest
from crash_cases import CASES
from crash_checks import clean_temporary, is_timed
from crash_known import assert_none
from crash_states import TEMPORARY, usual

FAST = [name for name, case in CASES.items() if not case.slow]
REAL = ("recommend fit", "recommend update", "save over a run", "predict --block", "export --safetensors", "report")
BY_RUST = re.compile(r"(.*/)?\.tmp\w{6}")  # safetensors renames it by a system call of its own
SOME = {  # of the default subset: parts of the distinct states
    "recommend fit": (0.3, 0.7), "recommend fit --overwrite": (0.35,), "recommend update": (0.5, 0.9), "verify": (0,),
    "save over a run": (0.4,), "predict --block": (0.5, 0.95), "export --safetensors": (0.6,), "report": (0.5,),
}  # fmt: skip


@pytest.mark.parametrize("name", SOME)
def test_some_crash_points(harness, name):
    places = list(harness.record(name).points().values())
    faults = harness.crash_points(name, [places[int(part * len(places))][0] for part in SOME[name]])
    assert_none(faults, full=False, case=name)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_every_crash_point(harness, name):
    assert_none(harness.crash_points(name), full=True, case=name)


@pytest.mark.parametrize("name", ["recommend update"])
def test_every_change_is_a_counted_call(harness, name):
    check_unseen(harness, name)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.slow or name in FAST])
def test_every_change_of_any_command_is_a_counted_call(harness, name):
    check_unseen(harness, name)


def check_unseen(harness, name):
    recorded = harness.record(name)
    assert recorded.calls or name == "verify"
    for call, names in recorded.unseen:
        assert any(map(BY_RUST.fullmatch, names)), f"before {call}, no call changed {names}"


def test_verify_changes_nothing(harness):
    recorded = harness.record("verify")
    assert recorded.calls == []
    assert recorded.facts.first == recorded.facts.last


@pytest.mark.parametrize("name", ["recommend update", "predict --block"])
def test_a_few_real_kills_leave_the_recorded_states(harness, tmp_path, name):
    count = len(harness.record(name).calls)
    check_real_kills(harness, name, tmp_path, [count // 3])


@pytest.mark.slow
@pytest.mark.parametrize("name", REAL)
def test_every_real_kill_leaves_the_recorded_state(harness, tmp_path, name):
    check_real_kills(harness, name, tmp_path, range(len(harness.record(name).calls)))


def check_real_kills(harness, name, folder, numbers):
    recorded = harness.record(name)
    for number in numbers:
        state = harness.killed(name, number, folder / "box")
        assert contents(recorded, state) == contents(recorded, recorded.states[number]), recorded.where(number)
    harness.tally.add(name, "real kill = state", len(numbers), len(numbers), len(numbers), 0)


def contents(recorded, state):
    """Return the names in a state, with the contents of those whose bytes hold no time.

    Of a temporary folder only its own name counts: it is removed in the order of the disk.
    """
    return {
        usual(name): (entry.kind, entry.mode, "" if is_timed(name, recorded.facts) else entry.content)
        for name, entry in state.entries.items()
        if TEMPORARY.sub(r"\1", name) == name
    }


@pytest.mark.parametrize("name", ["recommend fit"])
def test_three_kills_leave_nothing(harness, tmp_path, name):
    count = len(harness.record(name).calls)
    check_three_kills(harness, name, tmp_path, [count // 3])


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in FAST if CASES[n].kind != "nothing"])
def test_three_kills_at_many_points_leave_nothing(harness, tmp_path, name):
    count = len(harness.record(name).calls)
    check_three_kills(harness, name, tmp_path, range(1, count, max(count // 6, 1)))


def check_three_kills(harness, name, folder, numbers):
    recorded = harness.record(name)
    jobs = []
    for number in numbers:
        jobs.append((harness.kill_often(name, number, folder / "box"), f"three kills before {recorded.where(number)}"))
    faults = harness.check(name, recorded, jobs)
    harness.tally.add(name, "three kills", len(jobs), len(jobs), len(jobs), len(faults))
    assert_none(faults, full=False, case=name)


@pytest.mark.parametrize("name", ["recommend fit", "predict --block", "export --safetensors"])
def test_nothing_is_left_in_the_temporary_folder(harness, name):
    from crash_cases import begin, words

    clean_temporary(harness.lab)
    begin(CASES[name], harness.box, harness.good)
    ended = harness.lab.run(words(CASES[name].argv, harness.box, harness.good), harness.box)
    assert ended.code == 0, ended.said
    assert clean_temporary(harness.lab) == []
