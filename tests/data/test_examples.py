from itertools import pairwise

import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperfocal.data import examples
from hyperfocal.data.examples import (
    Examples,
    Holdout,
    batches_at_random,
    batches_by_length,
    cut_examples,
    cut_windows,
    hold_out_last,
    hold_out_truth,
)
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
        self.HOLDOUT.check_users("valid.csv", "C1")
        empty = Holdout(
            pl.Series("user", ["a"]), build([[1]]), SparseLabels.from_lists([[]], num_labels=6), skipped=1234
        )
        with pytest.raises(DataError, match=r"^valid\.csv: no user can be scored: 1,234 users are too short"):
            empty.check_users("valid.csv", "C1")
        truth = SparseLabels.from_lists([[7]], num_labels=8)
        unknown = Holdout(pl.Series("user", ["a"]), build([[1]]), truth)
        with pytest.raises(DataError, match=r"none of the 1 true items is known to the run.* for example 'C1'"):
            unknown.check_users("valid.csv", "C1")


USERS = st.lists(st.lists(st.integers(0, 8), max_size=12), max_size=6)


def sequences(users):
    offsets = torch.tensor([0, *(len(user) for user in users)]).cumsum(0)
    return Sequences(torch.tensor([item for user in users for item in user], dtype=torch.int64), offsets, 9)


@given(USERS, st.integers(1, 5), st.integers(1, 4))
def test_every_position_with_a_successor_is_there_once_with_what_follows(users, history, ahead):
    windows = cut_windows(sequences(users), history=history, ahead=ahead)
    assert windows.skipped == sum(len(user) < 2 for user in users)
    expected = sorted(
        (user[place], sorted(set(user[place + 1 : place + 1 + ahead])))
        for user in users
        for place in range(len(user) - 1)
    )
    found = []
    if len(windows):
        inputs, positions, labels = windows.batch(torch.arange(len(windows)))
        assert windows.lengths.max() == inputs.shape[1] <= history
        assert (inputs.flatten()[positions] < 9).all()
        assert (inputs != 9).sum() == len(positions)  # what is not a position is padding
        rows = [labels.indices[a:b].tolist() for a, b in zip(labels.indptr, labels.indptr[1:], strict=False)]
        found = sorted(zip(inputs.flatten()[positions].tolist(), map(sorted, rows), strict=True))
    assert found == expected


def test_a_long_user_is_cut_back_from_the_end_and_filled_up_on_the_right():
    windows = cut_windows(sequences([[0, 1, 2, 3, 4, 5], [6, 7]]), history=3)
    inputs, positions, labels = windows.batch(torch.arange(len(windows)))
    assert inputs.tolist() == [[2, 3, 4], [0, 1, 9], [6, 9, 9]]
    assert positions.tolist() == [0, 1, 2, 3, 4, 6]
    assert labels.indices.tolist() == [3, 4, 5, 1, 2, 7]


@given(st.lists(st.integers(1, 50), min_size=1, max_size=200), st.integers(1, 20), st.integers(0, 9))
def test_batches_hold_each_window_once_and_are_always_as_many(lengths, batch_size, seed):
    lengths = torch.tensor(lengths)
    batches = batches_by_length(lengths, batch_size, torch.Generator().manual_seed(seed))
    assert torch.cat(list(batches)).sort().values.tolist() == list(range(len(lengths)))
    again = batches_by_length(lengths, batch_size, torch.Generator().manual_seed(seed + 1))
    assert len(batches) == len(again) <= -(-len(lengths) // batch_size)


def test_a_batch_has_windows_of_like_length():
    lengths = torch.randint(1, 100, (1000,), generator=torch.Generator().manual_seed(0))
    batches = batches_by_length(lengths, 50, torch.Generator().manual_seed(0))
    padded = sum(len(batch) * int(lengths[batch].max()) for batch in batches)
    assert padded < 1.1 * int(lengths.sum())


def test_many_windows_are_dealt_out_buffer_by_buffer(monkeypatch):
    """8 windows per stretch, 4 stretches per buffer; 7 buffers, the last of 8 windows."""
    monkeypatch.setattr(examples, "BUFFER", 32)
    monkeypatch.setattr(examples, "STRETCH", 8)
    lengths = torch.randint(1, 9, (200,), generator=torch.Generator().manual_seed(0))

    def deal(epoch, seed=0):
        return batches_by_length(lengths, 4, torch.Generator().manual_seed(epoch), seed=seed)

    first, second = deal(0), deal(1)
    assert torch.cat(first).sort().values.tolist() == list(range(200))
    assert len(first) == len(second)
    assert [batch.tolist() for batch in first] == [batch.tolist() for batch in deal(0)]
    assert [batch.tolist() for batch in first] != [batch.tolist() for batch in second]
    assert buffers_of(first) == buffers_of(second) != buffers_of(deal(0, seed=1))
    assert len(buffers_of(first)) == 7


def buffers_of(batches):
    """Return the sets of stretches that are read together: those that share a batch, and what these share."""
    found: list[set[int]] = []
    for batch in batches:
        stretches = set((batch // 8).tolist())
        joined = [group for group in found if group & stretches]
        found = [group for group in found if not group & stretches] + [stretches.union(*joined)]
    return {frozenset(group) for group in found}


def drawn(count, seed, buffer_seed=0):
    return batches_at_random(count, 8, torch.Generator().manual_seed(seed), seed=buffer_seed)


@pytest.mark.parametrize("count", [1, 7, 8, 100])
@pytest.mark.parametrize("buffer", [2**20, 32], ids=["one buffer", "several"])
def test_every_number_once_and_the_same_sizes(monkeypatch, count, buffer):
    monkeypatch.setattr(examples, "BUFFER", buffer)
    monkeypatch.setattr(examples, "STRETCH", 4)
    batches = drawn(count, seed=3)
    assert torch.cat(list(batches)).sort().values.tolist() == list(range(count))
    assert [len(batch) for batch in batches] == [8] * (count // 8) + [count % 8] * (count % 8 > 0)


def test_a_few_are_shuffled_as_by_a_permutation():
    expected = torch.randperm(100, generator=torch.Generator().manual_seed(3))
    assert torch.cat(list(drawn(100, seed=3))).equal(expected)


def test_buffers_stay_together_and_their_order_is_drawn(monkeypatch):
    monkeypatch.setattr(examples, "BUFFER", 16)
    monkeypatch.setattr(examples, "STRETCH", 4)
    orders = [torch.cat(list(drawn(64, seed))) for seed in range(4)]
    members = [{frozenset(part.tolist()) for part in order.split(16)} for order in orders]
    assert all(found == members[0] for found in members)  # a buffer has the same numbers in each epoch
    assert len({tuple(order.tolist()) for order in orders}) == 4
    assert any(len({number // 4 for number in part}) == 4 and max(part) - min(part) > 16 for part in members[0])
