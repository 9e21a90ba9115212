"""Windows: every position that has a successor, exactly once, with the items that follow it."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from hyperfocal.data import examples as shuffling
from hyperfocal.data.examples import batches_by_length, cut_windows
from hyperfocal.sequences import Sequences

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
    """8 windows a stretch, 4 stretches a buffer; 7 buffers, the last of 8 windows."""
    monkeypatch.setattr(shuffling, "BUFFER", 32)
    monkeypatch.setattr(shuffling, "STRETCH", 8)
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
