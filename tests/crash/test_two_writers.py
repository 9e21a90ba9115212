"""Every pair of commands that write to one place, at the same time, with a reader that loads again and again."""

import pytest
from crash_known import assert_none
from crash_pairs import PAIRS, Pair, make_others
from crash_points import Fault

SOME = [("run", "update", "update"), ("export", "export", "export")]


def try_pair(harness, group, one, two, parts):
    """Hold the first command at some places, given in parts of its calls; return the faults."""
    make_others(harness)
    name = f"{one} | {two}, {group}"
    pair = Pair(harness, group, one, two)
    count = pair.calls()
    numbers = sorted({min(int(part * count), count - 1) for part in parts})
    faults = [
        Fault(name, f"held at call {n} of {count}", "pair", problem) for n in numbers for problem in pair.overlap(n)
    ]
    harness.tally.add(name, "two writers", len(numbers), len(numbers), len(numbers), len(faults))
    assert_none(faults, full=False, case=name)


@pytest.mark.parametrize(("group", "one", "two"), SOME)
def test_some_pairs_of_writers(harness, group, one, two):
    try_pair(harness, group, one, two, [0.6])


@pytest.mark.slow
@pytest.mark.parametrize(("group", "one", "two"), PAIRS)
def test_every_pair_of_writers(harness, group, one, two):
    try_pair(harness, group, one, two, [0, 0.05, 0.15, 0.3, 0.5, 0.7, 0.9, 1])
