import pytest
import torch
from torch import nn
from torch.nn import functional

from hyperfocal.config.recommend import ModelSettings
from hyperfocal.models.sequence_networks import ConcatMLP

NUM_ITEMS, HISTORY = 9, 4
PADDING = NUM_ITEMS
SMALL = ModelSettings(embedding_width=3, hidden_widths=(7, 5), dropout=0.0)


@pytest.fixture
def network():
    torch.manual_seed(0)
    return ConcatMLP(NUM_ITEMS, HISTORY, SMALL, bias=-4.6)


@pytest.mark.parametrize("batch", [0, 1, 6])
@pytest.mark.parametrize("widths", [(7, 5), (5,), (), (1, 2, 3, 4)])
def test_shapes(batch, widths):
    network = ConcatMLP(NUM_ITEMS, HISTORY, ModelSettings(embedding_width=3, hidden_widths=widths), bias=0.0)
    width = widths[-1] if widths else HISTORY * 3
    histories = torch.randint(0, NUM_ITEMS + 1, (batch, HISTORY))
    assert network(histories).shape == (batch, width)
    assert network.scores(histories).shape == (batch, NUM_ITEMS)
    assert (network.weight.shape, network.bias.shape) == ((NUM_ITEMS, width), (NUM_ITEMS,))


def test_the_challenges_network_has_its_sizes():
    network = ConcatMLP(5_501, 10, ModelSettings(embedding_width=50), bias=0.0)
    layers = [(layer.in_features, layer.out_features) for layer in network.layers if isinstance(layer, nn.Linear)]
    assert layers == [(10 * 50, 100), (100, 50)]
    assert network.embedding.weight.shape == (5_502, 50)
    assert network.weight.shape == (5_501, 50)


def test_written_out(network):
    """relu(W2 relu(W1 [e_1 ... e_T] + b1) + b2), then one output an item."""
    histories = torch.tensor([[0, 1, 2, 3], [PADDING, PADDING, 8, 8]])
    table = network.embedding.weight
    first, second = (layer for layer in network.layers if isinstance(layer, nn.Linear))
    for row, hidden, scores in zip(histories, network(histories), network.scores(histories), strict=True):
        inputs = torch.cat([table[item] for item in row])  # oldest first
        expected = functional.relu(second(functional.relu(first(inputs))))
        torch.testing.assert_close(hidden, expected)
        torch.testing.assert_close(scores, network.weight @ expected + network.bias)


def test_padding_is_zero_and_no_item(network):
    assert not network.embedding.weight[PADDING].any()
    assert network.embedding.weight[:PADDING].all()
    assert network.scores(torch.full((1, HISTORY), PADDING)).shape == (1, NUM_ITEMS)  # it cannot be recommended


def test_padding_says_only_that_there_is_nothing(network):
    """A padded place feeds zeros to the first layer: the score is that of the layer without these columns."""
    first = network.layers[0]
    short = network(torch.tensor([[PADDING, PADDING, 4, 2]]))
    with torch.no_grad():
        first.weight[:, : 2 * SMALL.embedding_width] = torch.randn(7, 2 * SMALL.embedding_width)
    assert torch.equal(network(torch.tensor([[PADDING, PADDING, 4, 2]])), short)
    assert not torch.equal(network(torch.tensor([[0, 0, 4, 2]])), short)


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW])
def test_padding_learns_nothing(network, optimizer):
    histories = torch.tensor([[PADDING, PADDING, 4, 2], [PADDING, 1, 1, 0]])
    steps = optimizer(network.parameters(), lr=0.1, weight_decay=0.1)
    for _ in range(3):
        steps.zero_grad()
        network.scores(histories).square().sum().backward()
        assert not network.embedding.weight.grad[PADDING].any()
        assert network.embedding.weight.grad[[4, 2, 1, 0]].any(1).all()
        steps.step()
    assert not network.embedding.weight[PADDING].any()


def test_the_order_counts(network):
    forward, backward = network(torch.tensor([[0, 1, 2, 3], [3, 2, 1, 0]]))
    assert not torch.equal(forward, backward)


def test_rows_do_not_touch_one_another(network):
    histories = torch.randint(0, NUM_ITEMS, (5, HISTORY))
    together = network.scores(histories)
    for row, scores in zip(histories, together, strict=True):
        torch.testing.assert_close(network.scores(row[None])[0], scores)


def test_the_bias_starts_at_the_prior(network):
    assert network.bias.tolist() == [pytest.approx(-4.6)] * NUM_ITEMS
    assert torch.sigmoid(network.scores(torch.randint(0, NUM_ITEMS, (50, HISTORY)))).mean().item() < 0.03
    assert network.bias.requires_grad


def test_every_parameter_learns(network):
    network.scores(torch.randint(0, NUM_ITEMS, (50, HISTORY))).square().sum().backward()
    names = {name for name, parameter in network.named_parameters() if parameter.grad is not None}
    assert names == {
        "embedding.weight",
        "weight",
        "bias",
        *(f"layers.{n}.{p}" for n in (0, 3) for p in ("weight", "bias")),
    }
    assert names == {name for name, _ in network.named_parameters()}


def test_dropout_only_while_training():
    network = ConcatMLP(
        NUM_ITEMS, HISTORY, ModelSettings(embedding_width=3, hidden_widths=(50,), dropout=0.5), bias=0.0
    )
    histories = torch.randint(0, NUM_ITEMS, (20, HISTORY))
    torch.manual_seed(1)
    one, other = network(histories), network(histories)
    assert not torch.equal(one, other)
    network.eval()
    assert torch.equal(network(histories), network(histories))


def test_the_seed_decides_the_weights(network):
    torch.manual_seed(0)
    again = ConcatMLP(NUM_ITEMS, HISTORY, SMALL, bias=-4.6)
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), again.parameters(), strict=True))
    torch.manual_seed(1)
    other = ConcatMLP(NUM_ITEMS, HISTORY, SMALL, bias=-4.6)
    assert not torch.equal(network.weight, other.weight)
