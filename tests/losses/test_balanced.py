"""The distribution-balanced loss against its papers' formula, written out with loops."""

import math

import pytest
import torch

from hyperfocal.errors import ConfigError, DataError
from hyperfocal.labels import SparseLabels
from hyperfocal.losses import BCELoss, DistributionBalancedLoss, FocalLoss

COUNTS = [90, 30, 10, 3, 1]
EXAMPLES = 100
ROWS = [[0], [1, 3], [0, 2, 4], []]
LABELS = SparseLabels.from_lists(ROWS, num_labels=5)


def some_logits():
    return 2 * torch.randn(4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def written_out(logits, *, gamma, rebalance=True, alpha=0.1, beta=10.0, mu=0.9, kappa=0.05, negative_scale=2.0):
    """Return the summed loss, one pair after the other.

    Source: Wu et al. 2020, sections 3.1 (rebalanced weights) and 3.2 (negative-tolerant regularisation), with
    the focal factor on top; the authors' ResampleLoss does the same with matrices.
    """
    total = 0.0
    for row, right in zip(logits.tolist(), ROWS, strict=True):
        for label, z in enumerate(row):
            z += kappa * -math.log(EXAMPLES / COUNTS[label] - 1)
            z, scale = (z, 1) if label in right else (negative_scale * z, negative_scale)
            p_right = 1 / (1 + math.exp(-z if label in right else z))
            weight = 1.0
            if rebalance:
                drawn = sum(1 / COUNTS[other] for other in right)
                r = (1 / COUNTS[label]) / drawn if drawn else 0
                weight = alpha + 1 / (1 + math.exp(-beta * (r - mu)))
            total += weight / scale * (1 - p_right) ** gamma * -math.log(p_right)
    return total


PARTS = [
    {"gamma": 2},
    {"gamma": 0},
    {"gamma": 0.5, "mu": 0.3, "beta": 4.0, "alpha": 0.0},
    {"gamma": 2, "rebalance": False},
    {"gamma": 0, "kappa": 0.0, "negative_scale": 1.0},
    {"gamma": 2, "kappa": 0.0, "negative_scale": 1.0},
    {"gamma": 1, "kappa": 0.2, "negative_scale": 5.0, "rebalance": False},
]


@pytest.mark.parametrize("parts", PARTS, ids=str)
def test_value_is_the_papers(parts):
    logits = some_logits()
    loss = DistributionBalancedLoss(COUNTS, EXAMPLES, reduction="sum", **parts)
    assert loss.from_logits(logits, LABELS).item() == pytest.approx(written_out(logits, **parts), rel=1e-5)


@pytest.mark.parametrize("parts", PARTS, ids=str)
def test_fused_and_its_gradient(parts):
    weight = some_logits().T.contiguous().requires_grad_()  # hidden is the identity: logits = weight.T
    loss = DistributionBalancedLoss(COUNTS, EXAMPLES, reduction="sum", chunk_labels=2, **parts)
    value = loss(torch.eye(4, dtype=torch.float64), weight, None, LABELS)
    assert value.item() == pytest.approx(written_out(weight.T, **parts), rel=1e-5)
    value.backward()
    step = torch.zeros(5, 4, dtype=torch.float64)
    for place in ((0, 0), (3, 1), (4, 3)):
        step.zero_()
        step[place] = 1e-6
        slope = (written_out((weight + step).T, **parts) - written_out((weight - step).T, **parts)) / 2e-6
        assert weight.grad[place].item() == pytest.approx(slope, rel=1e-4, abs=1e-7)


def test_all_parts_off_is_focal_loss_and_bce():
    off = {"kappa": 0.0, "negative_scale": 1.0, "rebalance": False}
    for gamma, plain in ((2, FocalLoss(2)), (0, BCELoss())):
        loss = DistributionBalancedLoss(COUNTS, EXAMPLES, gamma=gamma, **off)
        torch.testing.assert_close(loss.from_logits(some_logits(), LABELS), plain.from_logits(some_logits(), LABELS))


def test_weights_by_hand():
    """Row 1 has labels 1 and 3: P = 1/30 + 1/3 = 11/30; q of label 3 is (1/3) / (11/30) = 10/11. Row 3 has none."""
    weights = DistributionBalancedLoss(COUNTS, EXAMPLES, alpha=0.1, beta=10, mu=0.9).term_weights(LABELS)
    got = weights(slice(3, 5))
    assert got.shape == (4, 2)
    assert got[1, 0].item() == pytest.approx(0.1 + 1 / (1 + math.exp(-10 * (10 / 11 - 0.9))))
    assert got[1, 1].item() == pytest.approx(0.1 + 1 / (1 + math.exp(-10 * (30 / 11 - 0.9))))
    assert got[3].tolist() == pytest.approx([0.1 + 1 / (1 + math.exp(9))] * 2)


def test_a_masked_positive_does_not_weigh_the_others():
    mask = SparseLabels.from_lists([[], [3], [], []], num_labels=5)
    without = SparseLabels.from_lists([[0], [1], [0, 2, 4], []], num_labels=5)
    loss, logits = DistributionBalancedLoss(COUNTS, EXAMPLES, reduction="none"), some_logits()
    torch.testing.assert_close(loss.from_logits(logits, LABELS, mask), loss.from_logits(logits, without, mask))


def test_a_rare_labels_logit_is_shifted_down():
    shift = DistributionBalancedLoss(COUNTS, EXAMPLES, kappa=0.05).logit_shift
    assert shift.tolist() == pytest.approx([0.05 * math.log(c / (100 - c)) for c in COUNTS])
    assert shift[4] < shift[3] < 0 < shift[0]


def test_labels_that_none_or_all_have():
    loss = DistributionBalancedLoss([0, 100, 50, 1, 99], EXAMPLES, kappa=1.0)
    assert loss.logit_shift[:2].tolist() == pytest.approx([math.log(0.5 / 99.5), math.log(99.5 / 0.5)])
    assert loss.inverse_counts[:2].tolist() == pytest.approx([1, 1 / 100])
    assert loss.from_logits(some_logits(), LABELS).isfinite()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gamma": 6}, "gamma = 6 is not allowed. Expected a number from 0 to 5"),
        ({"alpha": -0.1}, "alpha = -0.1 is not allowed. Expected a number of 0 or more"),
        ({"beta": math.inf}, "beta = inf is not allowed. Expected a number of 0 or more"),
        ({"kappa": -1}, "kappa = -1 is not allowed. Expected a number of 0 or more"),
        ({"negative_scale": 0}, "negative_scale = 0 is not allowed. Expected a number above 0"),
    ],
)
def test_out_of_range(options, message):
    with pytest.raises(ConfigError) as caught:
        DistributionBalancedLoss(COUNTS, EXAMPLES, **options)
    assert str(caught.value) == message


def test_more_examples_of_a_label_than_there_are():
    with pytest.raises(DataError, match=r"counts: label 1 has 101.0 examples. Expected a number from 0 to 100"):
        DistributionBalancedLoss([1, 101], 100)


@pytest.mark.parametrize("examples", [0, -1, math.inf, math.nan])
def test_no_number_of_examples(examples):
    """With 0 examples the shift was nan."""
    with pytest.raises(ConfigError, match=rf"num_examples = {examples} is not allowed\. Expected 1 or more"):
        DistributionBalancedLoss([0, 0], examples)


def test_labels_without_any_example():
    """s = 0.05 * -log(100 / 0.5 - 1), alike for all."""
    shift = DistributionBalancedLoss([0, 0], 100).logit_shift
    assert shift.tolist() == pytest.approx([-0.05 * math.log(199)] * 2)


@pytest.mark.parametrize(("kappa", "name"), [(0.05, "logit_shift"), (0, "counts")])
def test_counts_of_another_length(kappa, name):
    labels = SparseLabels.from_lists([[0]], num_labels=3)
    with pytest.raises(DataError, match=f"{name} has 5 numbers, but there are 3 labels"):
        DistributionBalancedLoss(COUNTS, 100, kappa=kappa).from_logits(torch.zeros(1, 3), labels)
