from itertools import pairwise

import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperfocal.data.examples import Examples, Holdout, cut_examples, hold_out_last, hold_out_truth
from hyperfocal.data.logs import Log
from hyperfocal.data.vocabulary import Vocabulary
from hyperfocal.errors import DataError
from hyperfocal.labels import SparseLabels
from hyperfocal.sequences import Sequences

NUM_ITEMS = 6
quick = settings(deadline=None, max_examples=80)
histories = st.lists(st.lists(st.integers(0, NUM_ITEMS - 1), max_size=7), max_size=6)
sizes = {"history": st.integers(1, 4), "next_items": st.integers(1, 3)}


def build(lists: list[list[int]]) -> Sequences:
    items = torch.tensor([item for row in lists for item in row], dtype=torch.int64)
    return Sequences(items, torch.tensor([0, *map(len, lists)]).cumsum(0), NUM_ITEMS)


def label_lists(labels: SparseLabels) -> list[list[int]]:
    return [labels.indices[start:end].tolist() for start, end in pairwise(labels.indptr.tolist())]


def cuts_of(length: int, *, history: int, next_items: int, every: bool) -> list[int]:
    """Return the cuts of a user, written out."""
    last = max(history, length - next_items)
    return [cut for cut in range(history, last + 1) if every or cut == last] if length > history else []


class TestCutExamples:
    @quick
    @given(histories, sizes["history"], sizes["next_items"], st.booleans())
    def test_against_slices(self, lists, history, next_items, every):
        cut = {"history": history, "next_items": next_items, "every": every}
        examples = cut_examples(build(lists), **cut)
        expected = [(row[c - history : c], row[c : c + next_items]) for row in lists for c in cuts_of(len(row), **cut)]
        assert len(examples) == len(expected)
        assert examples.skipped == sum(len(row) <= history for row in lists)
        if expected:
            inputs, targets = examples.batch(torch.arange(len(examples)))
            assert inputs.tolist() == [before for before, _ in expected]
            assert label_lists(targets) == [sorted(set(after)) for _, after in expected]
            assert targets.num_labels == NUM_ITEMS

    @quick
    @given(histories, st.booleans(), st.data())
    def test_a_batch_is_any_choice_in_any_order(self, lists, every, data):
        examples = cut_examples(build([*lists, [0, 1, 2, 3]]), history=2, next_items=2, every=every)
        index = data.draw(st.lists(st.integers(0, len(examples) - 1), min_size=1, max_size=9))
        inputs, targets = examples.batch(torch.tensor(index))
        singles = [examples.batch(torch.tensor([number])) for number in index]
        assert inputs.tolist() == [single.tolist()[0] for single, _ in singles]
        assert label_lists(targets) == [label_lists(single)[0] for _, single in singles]

    def test_by_hand(self):
        sequences = build([[0, 1, 2, 3, 4], [5], [3, 3, 1]])
        last = cut_examples(sequences, history=2, next_items=2, every=False)
        inputs, targets = last.batch(torch.tensor([1, 0]))
        assert inputs.tolist() == [[3, 3], [1, 2]]
        assert label_lists(targets) == [[1], [3, 4]]  # the short user has one item left, not two
        every = cut_examples(sequences, history=2, next_items=2, every=True)
        assert every.batch(torch.arange(3))[0].tolist() == [[0, 1], [1, 2], [3, 3]]
        assert (last.skipped, every.skipped) == (1, 1)

    def test_a_short_history_is_filled_from_the_left_with_the_padding(self):
        sequences = build([[4, 4], [0, 1, 2]])
        examples = Examples(sequences, torch.tensor([2]), torch.tensor([4]), torch.tensor([5]), history=4, skipped=0)
        assert examples.batch(torch.tensor([0]))[0].tolist() == [[NUM_ITEMS, NUM_ITEMS, 0, 1]]  # nothing of user 0

    def test_nobody_is_long_enough(self):
        for every in (True, False):
            examples = cut_examples(build([[1], [2, 3], []]), history=2, next_items=1, every=every)
            assert (len(examples), examples.skipped) == (0, 3)


class TestHoldOutLast:
    @quick
    @given(histories, sizes["history"], sizes["next_items"])
    def test_against_slices(self, lists, history, next_items):
        vocabulary = Vocabulary.of(pl.Series(["1", "2", "4"]))
        log = Log.from_lists(lists)
        holdout = hold_out_last(log, vocabulary, history=history, next_items=next_items)
        kept = [(str(user), row) for user, row in enumerate(lists) if len(row) > history]
        cuts = [max(history, len(row) - next_items) for _, row in kept]
        pasts = [row[:cut] for (_, row), cut in zip(kept, cuts, strict=True)]
        futures = [row[cut:] for (_, row), cut in zip(kept, cuts, strict=True)]
        check(holdout, [user for user, _ in kept], pasts, futures, known=[1, 2, 4])
        assert holdout.skipped == len(lists) - len(kept)


class TestHoldOutTruth:
    @quick
    @given(histories, histories, st.data())
    def test_against_a_dict(self, pasts, futures, data):
        vocabulary = Vocabulary.of(pl.Series(["1", "2", "4"]))
        users = data.draw(st.permutations(range(8)))
        past = named(pasts, [f"u{number}" for number in range(len(pasts))])
        future = named(futures, [f"u{number}" for number in users[: len(futures)]])
        holdout = hold_out_truth(past, future, vocabulary)
        by_user = dict(zip(past.users, pasts, strict=True))
        check(
            holdout, future.users.to_list(), [by_user.get(user, []) for user in future.users], futures, known=[1, 2, 4]
        )
        assert holdout.skipped == len(set(past.users) - set(future.users))

    def test_by_hand(self):
        past, future = named([[1, 2, 9], [4]], ["b", "a"]), named([[4, 7, 4], [1]], ["c", "b"])
        holdout = hold_out_truth(past, future, Vocabulary.of(pl.Series(["1", "2", "4"])))
        assert holdout.users.to_list() == ["c", "b"]
        assert holdout.histories.offsets.tolist() == [0, 0, 2]  # c has no history, b's 9 is unknown
        assert holdout.histories.items.tolist() == [0, 1]
        assert label_lists(holdout.truth) == [[2, 3], [0]]  # 7, which training never saw, is item 3 of 3
        assert (holdout.unknown, holdout.skipped) == (1, 1)


def named(lists: list[list[int]], users: list[str]) -> Log:
    log = Log.from_lists(lists)
    return Log(pl.Series("user", users, dtype=pl.String), log.items, log.offsets)


def check(
    holdout: Holdout, users: list[str], pasts: list[list[int]], futures: list[list[int]], known: list[int]
) -> None:
    """Compare with lists of raw ids; ids that training never saw are numbered after the known, as they appear."""
    numbers = {item: number for number, item in enumerate(known)}
    for item in (item for row in futures for item in row):
        numbers.setdefault(item, len(numbers))
    assert holdout.users.to_list() == users
    assert len(holdout) == len(users)
    assert holdout.histories.lengths.tolist() == [sum(item in known for item in row) for row in pasts]
    assert holdout.histories.items.tolist() == [numbers[item] for row in pasts for item in row if item in known]
    assert holdout.histories.num_items == len(known)
    assert holdout.unknown == sum(item not in known for row in pasts for item in row)
    assert label_lists(holdout.truth) == [sorted({numbers[item] for item in row}) for row in futures]
    assert holdout.truth.num_labels == len(numbers)


class TestHoldout:
    HOLDOUT = Holdout(
        pl.Series("user", ["a", "b", "c"]),
        build([[0, 1], [], [2]]),
        SparseLabels.from_lists([[3, 7], [6], [0]], num_labels=8),  # 6 and 7 are none of the 6 items
        unknown=4,
        skipped=2,
    )

    def test_first(self):
        first = self.HOLDOUT.first(2)
        assert first.users.to_list() == ["a", "b"]
        assert first.histories.offsets.tolist() == [0, 2, 2]
        assert label_lists(first.truth) == [[3, 7], [6]]
        assert len(self.HOLDOUT.first(9)) == 3
        assert len(self.HOLDOUT.first(0)) == 0

    def test_describe(self):
        assert self.HOLDOUT.describe() == {
            "users": 3,
            "skipped_users": 2,
            "users_without_history": 0,
            "unknown_events": 4,
            "true_items": 4,
            "unseen_true_items": 2,
        }

    def test_check_users(self):
        self.HOLDOUT.check_users("valid.csv")
        empty = Holdout(
            pl.Series("user", ["a"]), build([[1]]), SparseLabels.from_lists([[]], num_labels=6), skipped=1234
        )
        with pytest.raises(DataError, match=r"^valid\.csv: no user can be scored: 1,234 users are too short"):
            empty.check_users("valid.csv")
