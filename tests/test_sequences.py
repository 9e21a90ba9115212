from itertools import pairwise

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperfocal.sequences import Sequences

NUM_ITEMS = 6
quick = settings(deadline=None, max_examples=60)
histories = st.lists(st.lists(st.integers(0, NUM_ITEMS - 1), max_size=5), max_size=6)


def build(lists: list[list[int]]) -> Sequences:
    items = torch.tensor([item for row in lists for item in row], dtype=torch.int64)
    offsets = torch.tensor([0, *map(len, lists)]).cumsum(0)
    return Sequences(items, offsets, NUM_ITEMS)


def as_lists(sequences: Sequences) -> list[list[int]]:
    ends = sequences.offsets.tolist()
    return [sequences.items[start:end].tolist() for start, end in pairwise(ends)]


class TestAgainstLists:
    """A user is a Python list of item numbers, oldest first."""

    @quick
    @given(histories)
    def test_sizes_and_users(self, lists):
        sequences = build(lists)
        assert len(sequences) == len(lists)
        assert sequences.lengths.tolist() == [len(row) for row in lists]
        assert sequences.users.tolist() == [user for user, row in enumerate(lists) for _ in row]

    @quick
    @given(histories, st.data())
    def test_block(self, lists, data):
        start = data.draw(st.integers(0, len(lists)))
        stop = data.draw(st.integers(start, len(lists) + 3))  # the last block may reach too far
        block = build(lists).block(start, stop)
        assert as_lists(block) == lists[start:stop]
        assert (int(block.offsets[0]), block.num_items) == (0, NUM_ITEMS)

    @quick
    @given(histories, st.integers(1, 7))
    def test_last(self, lists, count):
        newest = build(lists).last(count)
        assert newest.shape == (len(lists), count)
        assert newest.dtype == torch.int64
        assert newest.tolist() == [([NUM_ITEMS] * count + row)[-count:] for row in lists]

    @quick
    @given(histories)
    def test_as_labels(self, lists):
        labels = build(lists).as_labels()
        assert labels.to_dense().tolist() == [[float(item in row) for item in range(NUM_ITEMS)] for row in lists]


def test_last_by_hand():
    newest = build([[4, 0, 2], [5], []]).last(2)
    assert newest.tolist() == [[0, 2], [6, 5], [6, 6]]  # 6 items, so 6 is the padding


def test_a_block_joins_blocks():
    lists = [[4, 0], [5], [], [1, 1, 2]]
    sequences = build(lists)
    assert as_lists(sequences.block(0, 2)) + as_lists(sequences.block(2, 4)) == lists


def test_the_order_and_repeats_count_until_they_become_labels():
    sequences = build([[3, 1, 3]])
    assert sequences.last(3).tolist() == [[3, 1, 3]]
    assert sequences.as_labels().indices.tolist() == [1, 3]
