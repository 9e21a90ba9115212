import pytest
import torch

from hyperfocal.data import examples as shuffling
from hyperfocal.data.examples import batches_at_random


def drawn(count, seed, buffer_seed=0):
    return batches_at_random(count, 8, torch.Generator().manual_seed(seed), seed=buffer_seed)


@pytest.mark.parametrize("count", [1, 7, 8, 100])
@pytest.mark.parametrize("buffer", [2**20, 32], ids=["one buffer", "several"])
def test_every_number_once_and_the_same_sizes(monkeypatch, count, buffer):
    monkeypatch.setattr(shuffling, "BUFFER", buffer)
    monkeypatch.setattr(shuffling, "STRETCH", 4)
    batches = drawn(count, seed=3)
    assert torch.cat(list(batches)).sort().values.tolist() == list(range(count))
    assert [len(batch) for batch in batches] == [8] * (count // 8) + [count % 8] * (count % 8 > 0)


def test_a_few_are_shuffled_as_by_a_permutation():
    expected = torch.randperm(100, generator=torch.Generator().manual_seed(3))
    assert torch.cat(list(drawn(100, seed=3))).equal(expected)


def test_buffers_stay_together_and_their_order_is_drawn(monkeypatch):
    monkeypatch.setattr(shuffling, "BUFFER", 16)
    monkeypatch.setattr(shuffling, "STRETCH", 4)
    orders = [torch.cat(list(drawn(64, seed))) for seed in range(4)]
    members = [{frozenset(part.tolist()) for part in order.split(16)} for order in orders]
    assert all(found == members[0] for found in members)  # which numbers share a buffer is the same in each epoch
    assert len({tuple(order.tolist()) for order in orders}) == 4
    assert any(len({number // 4 for number in part}) == 4 and max(part) - min(part) > 16 for part in members[0])
