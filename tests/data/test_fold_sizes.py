"""Sizes of folds, and the costs by which units are chosen for them."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperfocal.data.fold_sizes import balance, round_sizes, unit_costs
from hyperfocal.data.folds import Folds
from hyperfocal.labels import SparseLabels


def folds_of(rows, groups, folds, shares=(0.5, 0.5)):
    """Return folds in which the units have been assigned."""
    labels = SparseLabels.from_lists(rows, num_labels=4)
    made = Folds(labels, np.array(groups), np.array(shares) / sum(shares), seed=0)
    made.assign(np.arange(len(folds)), np.array(folds))
    return made


@pytest.mark.parametrize(
    ("wanted", "counts", "expected"),
    [
        ([9.0, 1.0], [8, 2], [9, 1]),
        ([9.6, 2.4], [10, 2], [10, 2]),
        ([2.5, 2.5], [2, 3], [2, 3]),  # a tie goes to the fold that has more documents
        ([2.5, 2.5], [3, 2], [3, 2]),
        ([10 / 3] * 3, [3, 3, 4], [3, 3, 4]),
        ([1.7, 0.3], [2, 0], [1, 1]),  # no fold is empty
        ([0.9, 0.1], [1, 0], [1, 0]),  # except if there are too few documents
        ([0.0, 0.0], [0, 0], [0, 0]),
    ],
)
def test_round_sizes(wanted, counts, expected):
    assert round_sizes(np.array(wanted), np.array(counts)).tolist() == expected


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.lists(st.integers(0, 3), max_size=3), st.integers(0, 5)), min_size=6, max_size=20),
    st.integers(0, 5),
)
def test_the_cost_of_a_unit_is_the_change_of_the_formula(documents, unit):
    """In the module's docstring; here over all labels and both folds, before and after the move."""
    groups = np.unique([group for _, group in documents] + [*range(6)], return_inverse=True)[1]  # no number is missing
    rows = [row for row, _ in documents] + [[]] * 6
    folds = folds_of(rows, groups, [0, 1, 0, 1, 0, 1], (0.7, 0.3))
    source = unit % 2
    target = 1 - source

    def badness():
        totals, counts = folds.totals[:-1], folds.counts[:, :-1]
        distance = np.abs(counts - folds.wanted[:, :-1])
        used = totals > 0
        weighted = ((1 / totals[used] + 100 / len(rows)) * distance[:, used]).sum()
        return weighted + (counts[source, used] == 0).sum() - 0.03 * (counts[target, used] > 0).sum()

    before = badness()
    cost = unit_costs(folds, np.array([unit]), source, target, keep=False)[0]
    folds.move(unit, target)
    assert cost == pytest.approx(badness() - before)


def test_a_unit_that_has_to_stay_costs_infinitely_much():
    folds = folds_of([[0], [1], [1], [2]], [0, 1, 2, 3], [0, 0, 0, 1])
    costs = unit_costs(folds, np.arange(3), 0, 1, keep=True)
    assert np.isinf(costs).tolist() == [True, False, False]
    assert np.isfinite(unit_costs(folds, np.arange(3), 0, 1, keep=False)).all()


def test_equal_units_are_swapped_for_the_shares_of_labels():
    folds = folds_of([[0], [0], [1], [1]], [0, 1, 2, 3], [0, 0, 1, 1])
    balance(folds, complete=False)
    assert folds.counts.tolist() == [[1, 1, 0, 0, 2], [1, 1, 0, 0, 2]]


def test_groups_of_different_sizes_are_swapped_for_the_sizes():
    # 3 + 3 and 2 + 2 documents of one label: only a swap brings both folds to 5.
    folds = folds_of([[0]] * 10, [0, 0, 0, 1, 1, 1, 2, 2, 3, 3], [0, 0, 1, 1])
    balance(folds, complete=False)
    assert folds.counts[:, -1].tolist() == [5, 5]


def test_what_fold_0_needs_stays_there_whatever_the_sizes():
    folds = folds_of([[0], [1], [2], [3], [3]], [0, 1, 2, 3, 4], [0, 0, 0, 0, 1], (0.2, 0.8))
    balance(folds, complete=True)
    assert folds.folds.tolist() == [0, 0, 0, 0, 1]
    balance(folds, complete=False)
    assert folds.counts[:, -1].tolist() == [1, 4]


def test_large_folds_are_compared_in_blocks(monkeypatch):
    """Costs of a few units at a time give the same folds."""
    rows = [[number % 4] * (number % 3 > 0) for number in range(90)]
    results = []
    for block in (100_000, 7):
        monkeypatch.setattr("hyperfocal.data.fold_sizes.BLOCK", block)
        folds = folds_of(rows, range(90), [0] * 60 + [1] * 30)
        balance(folds, complete=True)
        results.append(folds.folds.tolist())
    assert results[0] == results[1]
    assert torch.tensor(results[0]).bincount().tolist() == [45, 45]
