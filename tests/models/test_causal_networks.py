"""Causal encoders: no place reads a later one, and what is filled up changes nothing."""

import msgspec
import pytest
import torch

from hyperfocal.config.recommend import CAUSAL, ModelSettings
from hyperfocal.models.sequence_networks import ENCODERS, CausalFilter, CausalNetwork, Mean, rotated

SETTINGS = [
    ModelSettings(name=name, embedding_width=8, positions=positions)
    for name in CAUSAL
    for positions in (("learned", "rotary", "none") if name == "transformer" else ("learned",))
] + [ModelSettings(name="transformer", embedding_width=8, filter=0.5)]
NAMES = [f"{settings.name}-{settings.positions}{'-filter' if settings.filter else ''}" for settings in SETTINGS]


@pytest.fixture(params=SETTINGS, ids=NAMES)
def network(request):
    torch.manual_seed(0)
    return CausalNetwork(20, 6, request.param, bias=-1.0).eval()


def test_the_settings_know_every_encoder():
    assert set(ENCODERS) == set(CAUSAL)


def test_no_place_reads_a_later_one(network):
    items = torch.randint(0, 20, (3, 6))
    other = items.clone()
    other[:, 4:] = torch.randint(0, 20, (3, 2))
    torch.testing.assert_close(network(items)[:, :4], network(other)[:, :4])
    assert not torch.allclose(network(items)[:, 5], network(other)[:, 5])


def test_scores_are_those_of_the_last_item_whatever_stands_beside(network):
    """A history filled up on the left, alone or in a batch with a longer one, scores as by itself."""
    alone = torch.tensor([[3, 5, 7]])
    vectors, biases = network.output()
    expected = network(alone)[:, -1] @ vectors.T + biases
    batch = torch.tensor([[20, 20, 20, 3, 5, 7], [1, 2, 3, 4, 5, 6]])
    torch.testing.assert_close(network.scores(batch)[:1], expected)
    assert network.scores(torch.full((1, 6), 20)).isfinite().all()  # no history at all


def test_one_place_of_each_row_is_what_the_whole_has_there(network):
    items, places = torch.randint(0, 20, (5, 6)), torch.tensor([0, 5, 3, 3, 1])
    expected = network(items)[torch.arange(5), places]
    torch.testing.assert_close(network(items, places=places), expected)


def test_the_items_are_the_output_layer(network):
    assert network.output()[0].data_ptr() == network.embedding.weight.data_ptr()
    assert network.bias.tolist() == [-1.0] * 20


def test_the_filter_written_out():
    torch.manual_seed(1)
    causal, items = CausalFilter(3), torch.randn(1, 7, 3)
    torch.nn.init.normal_(causal.taps)
    for place in range(7):
        low = sum(causal.taps[age] * items[0, place - age] for age in range(min(place + 1, 5)))
        expected = low + causal.high**2 * (items[0, place] - low)
        torch.testing.assert_close(causal(items)[0, place], expected)


def test_the_mean_written_out():
    items = torch.tensor([[[1.0], [2.0], [4.0]]])
    mean = Mean(ModelSettings(name="mean", decay=0.5), 3)
    expected = [1, (2 + 0.5) / 1.5, (4 + 1 + 0.25) / 1.75]
    torch.testing.assert_close(mean(items).flatten(), torch.tensor(expected))


def test_products_of_rotated_vectors_depend_on_the_distance_alone():
    query, key = torch.randn(2, 8)
    queries, keys = rotated(query.expand(10, 8)), rotated(key.expand(10, 8))
    products = queries @ keys.T
    for distance in range(10):
        diagonal = products.diagonal(-distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(products[0, 0], products[9, 0])


def test_order_is_seen_where_there_are_positions():
    torch.manual_seed(0)
    settings = ModelSettings(name="transformer", embedding_width=8, layers=1)
    for positions, same in (("none", True), ("learned", False), ("rotary", False)):
        network = CausalNetwork(20, 6, msgspec.structs.replace(settings, positions=positions), bias=0.0).eval()
        found = network.scores(torch.tensor([[1, 2, 3], [2, 1, 3]]))
        assert torch.allclose(found[0], found[1], atol=1e-6) == same
