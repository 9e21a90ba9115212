"""The softmax losses against torch's cross_entropy, the papers' formulas and arithmetic by hand."""

import math

import pytest
import torch
from torch.nn import functional

from hyperfocal.errors import ConfigError, DataError
from hyperfocal.labels import SparseLabels
from hyperfocal.losses import SoftmaxLoss

ONE_EACH = [3, 0, 5, 5, 1]
SINGLE = SparseLabels.from_lists([[label] for label in ONE_EACH], num_labels=6)
ROWS = [[3], [], [0, 1, 5], [2, 4], [1]]
SEVERAL = SparseLabels.from_lists(ROWS, num_labels=6)


def some_logits(seed=0):
    return 3 * torch.randn(5, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def both_ways(loss, logits, labels, mask=None):
    """Return the loss fused and from logits, after checking that they agree; hidden is the identity."""
    fused = loss(torch.eye(len(logits), dtype=logits.dtype), logits.T, None, labels, mask)
    torch.testing.assert_close(fused, loss.from_logits(logits, labels, mask))
    return fused


class TestAgainstTorch:
    @pytest.mark.parametrize("smoothing", [0, 0.1, 0.9])
    @pytest.mark.parametrize("temperature", [1, 0.1, 7])
    def test_one_positive_is_cross_entropy(self, smoothing, temperature):
        loss = SoftmaxLoss(temperature=temperature, label_smoothing=smoothing, chunk_labels=4)
        expected = functional.cross_entropy(
            some_logits() / temperature, torch.tensor(ONE_EACH), label_smoothing=smoothing
        )
        torch.testing.assert_close(both_ways(loss, some_logits(), SINGLE), expected)

    def test_each_row(self):
        expected = functional.cross_entropy(some_logits(), torch.tensor(ONE_EACH), reduction="none")
        torch.testing.assert_close(both_ways(SoftmaxLoss(reduction="none"), some_logits(), SINGLE), expected)

    def test_several_positives_are_soft_targets(self):
        """The mean over a row's positives of -log p is cross-entropy with 1/K at each of them."""
        targets = SEVERAL.to_dense(torch.float64)
        targets /= targets.sum(1, keepdim=True).clamp(min=1)  # the row without positives is all 0, and so is its loss
        expected = functional.cross_entropy(some_logits(), targets, reduction="none")
        got = both_ways(SoftmaxLoss(reduction="none", chunk_labels=2), some_logits(), SEVERAL)
        torch.testing.assert_close(got, expected)
        assert got[1] == 0

    def test_a_weight_for_each_label(self):
        weight = torch.tensor([1, 2, 0.5, 3, 1, 7], dtype=torch.float64)
        expected = functional.cross_entropy(some_logits(), torch.tensor(ONE_EACH), weight=weight, reduction="none")
        loss = SoftmaxLoss(positive_weight=weight, reduction="none")
        torch.testing.assert_close(both_ways(loss, some_logits(), SINGLE), expected)

    def test_masked_labels_are_none_of_the_softmax(self):
        mask = SparseLabels.from_lists([[0, 1]] * 5, num_labels=6)
        targets = torch.tensor([3, 5, 5])
        expected = functional.cross_entropy(
            some_logits()[[0, 2, 3], 2:], targets - 2, reduction="none", label_smoothing=0.2
        )
        loss = SoftmaxLoss(reduction="none", label_smoothing=0.2, chunk_labels=2)
        got = both_ways(loss, some_logits(), SINGLE, mask)
        torch.testing.assert_close(got, torch.stack([expected[0], *expected.new_zeros(1), *expected[1:], got[1]]))

    def test_divided_by_rows_with_a_positive(self):
        rows = both_ways(SoftmaxLoss(reduction="none"), some_logits(), SEVERAL)
        assert both_ways(SoftmaxLoss(), some_logits(), SEVERAL).item() == pytest.approx(rows.sum().item() / 5)
        ignoring = SoftmaxLoss(ignore_empty=True)
        assert both_ways(ignoring, some_logits(), SEVERAL).item() == pytest.approx(rows.sum().item() / 4)


class TestFormulas:
    def test_by_hand(self):
        """Four equal logits: p = 1/4."""
        labels = SparseLabels.from_lists([[0], [1, 2], []], num_labels=4)
        zeros = torch.zeros(3, 4)
        assert both_ways(SoftmaxLoss(), zeros, labels).item() == pytest.approx(2 * math.log(4) / 3)
        focal = both_ways(SoftmaxLoss(gamma=2, reduction="sum"), zeros, labels)
        assert focal.item() == pytest.approx(2 * (3 / 4) ** 2 * math.log(4))

    def test_the_gradient_by_hand(self):
        """p - y for one positive; p - y / 2 for two."""
        labels = SparseLabels.from_lists([[0], [1, 2], []], num_labels=4)
        weight = torch.zeros(4, 3, requires_grad=True)
        SoftmaxLoss(reduction="sum", chunk_labels=3)(torch.eye(3), weight, None, labels).backward()
        expected = [[-0.75, 0.25, 0.25, 0.25], [0.25, -0.25, -0.25, 0.25], [0, 0, 0, 0]]
        assert weight.grad.T.tolist() == expected

    @pytest.mark.parametrize("gamma", [0.5, 1, 2, 5])
    def test_focal(self, gamma):
        p = some_logits().softmax(1)
        rows = [
            sum((1 - p[row, label]) ** gamma * -p[row, label].log() for label in right) / max(len(right), 1)
            for row, right in enumerate(ROWS)
        ]
        loss = SoftmaxLoss(gamma=gamma, reduction="none", chunk_labels=4)
        torch.testing.assert_close(both_ways(loss, some_logits(), SEVERAL), torch.tensor(rows, dtype=torch.float64))

    @pytest.mark.parametrize("tau", [0, 0.5, 1])
    def test_logit_adjustment(self, tau):
        """Menon et al. 2021, equation 10: -log of exp(f_y + tau log pi_y) / sum of exp(f_y' + tau log pi_y')."""
        prior = torch.tensor([0.5, 0.2, 0.1, 0.1, 0.06, 0.04], dtype=torch.float64)
        powers = torch.exp(some_logits()) * prior**tau
        expected = -torch.log(powers[torch.arange(5), ONE_EACH] / powers.sum(1)).mean()
        loss = SoftmaxLoss(log_prior=prior.log(), tau=tau, chunk_labels=4)
        torch.testing.assert_close(both_ways(loss, some_logits(), SINGLE), expected, rtol=1e-6, atol=1e-6)

    def test_the_prior_is_not_divided_by_the_temperature(self):
        prior = torch.tensor([0.5, 0.2, 0.1, 0.1, 0.06, 0.04], dtype=torch.float64)
        expected = functional.cross_entropy(some_logits() / 4 + prior.log(), torch.tensor(ONE_EACH))
        loss = SoftmaxLoss(temperature=4, log_prior=prior.log(), chunk_labels=4)
        torch.testing.assert_close(both_ways(loss, some_logits(), SINGLE), expected, rtol=1e-6, atol=1e-6)

    def test_what_is_right_beyond_rounding_has_no_loss_and_no_gradient(self):
        weight = torch.tensor([[200.0], [0.0], [-200.0]], requires_grad=True)
        for gamma in (0, 0.5, 1, 2):
            loss = SoftmaxLoss(gamma=gamma, chunk_labels=2)
            value = loss(torch.ones(1, 1), weight, None, SparseLabels.from_lists([[0]], num_labels=3))
            assert value == 0
            assert torch.autograd.grad(value, weight)[0].tolist() == [[0], [0], [0]]

    def test_the_normaliser_does_not_overflow(self):
        """And is not rounded to the precision of the largest logit: float32 has steps of 0.001 at 10,000."""
        logits = torch.tensor([[1e4, -1e4, 9999.0, 0.0]])
        labels = SparseLabels.from_lists([[2]], num_labels=4)
        value = both_ways(SoftmaxLoss(chunk_labels=1), logits, labels)
        assert value.item() == pytest.approx(1 + math.log(1 + math.exp(-1)))


class TestErrors:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"temperature": 0}, "temperature = 0 is not allowed. Expected a number above 0"),
            ({"temperature": math.nan}, "temperature = nan is not allowed. Expected a number above 0"),
            ({"label_smoothing": 1}, "label_smoothing = 1 is not allowed. Expected 0 or more, below 1"),
            ({"tau": -1}, "tau = -1 is not allowed. Expected a number of 0 or more"),
            ({"gamma": -0.5}, "gamma = -0.5 is not allowed. Expected a number from 0 to 5"),
            ({"log_prior": [0.0, -math.inf]}, "log_prior: label 1 has -inf. Expected finite numbers"),
        ],
    )
    def test_out_of_range(self, options, message):
        with pytest.raises(ConfigError) as caught:
            SoftmaxLoss(**options)
        assert str(caught.value) == message

    def test_a_prior_of_another_length(self):
        with pytest.raises(DataError, match="logit_shift has 2 numbers, but there are 6 labels"):
            SoftmaxLoss(log_prior=[0.0, -1.0]).from_logits(some_logits(), SINGLE)

    def test_print_shows_the_settings(self):
        loss = SoftmaxLoss(gamma=2, log_prior=[0.0, -1.0], positive_weight=[1.0, 2.0])
        numbers = "temperature=1.0, label_smoothing=0.0, gamma=2, log_prior=(2,), tau=1.0"
        assert repr(loss) == f"SoftmaxLoss({numbers}, reduction='batch', positive_weight=(2,))"
