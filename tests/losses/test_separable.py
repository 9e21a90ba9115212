"""The scalar functions of the losses, and the dense maths that sums them."""

import math

import pytest
import torch
from torch.nn import functional

from hyperfocal.errors import ConfigError
from hyperfocal.labels import SparseLabels
from hyperfocal.losses import BCELoss, FocalLoss, SeparableLoss
from loss_cases import Squared, StraightLines

LN2 = math.log(2)
GAMMAS = (0, 0.5, 1, 2, 3, 5)
ALPHAS = (None, 0.25, 0.5, 1)
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
LOSSES = [BCELoss(), *(FocalLoss(gamma, alpha) for gamma in GAMMAS for alpha in ALPHAS)]
every_loss = pytest.mark.parametrize("loss", LOSSES, ids=repr)


class OnlyPositives(SeparableLoss):
    """A user's loss of which one side is a constant, and the other a straight line."""

    def positive(self, logits):
        return 1 - logits

    def negative(self, logits):
        return torch.zeros_like(logits)


def random_case(batch=7, num_labels=11, seed=0):
    """Return float64 logits, their labels, and the same labels as a matrix of zeros and ones."""
    generator = torch.Generator().manual_seed(seed)
    dense = (torch.rand(batch, num_labels, generator=generator) < 0.2).double()
    labels = SparseLabels.from_lists([row.nonzero().flatten().tolist() for row in dense], num_labels=num_labels)
    return 4 * torch.randn(batch, num_labels, generator=generator, dtype=torch.float64), labels, dense


def sigmoid_focal_loss(logits, targets, alpha, gamma):
    """Return torchvision's focal loss, elementwise.

    Source: torchvision, ops/focal_loss.py, `sigmoid_focal_loss` with reduction="none".
    """
    p = torch.sigmoid(logits)
    ce_loss = functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    p_t = p * targets + (1 - p) * (1 - targets)
    loss = ce_loss * ((1 - p_t) ** gamma)
    if alpha >= 0:
        alpha_t = alpha * targets + (1 - alpha) * (1 - targets)
        loss = alpha_t * loss
    return loss


class TestValues:
    def test_bce_equals_torch(self):
        logits, labels, dense = random_case()
        expected = functional.binary_cross_entropy_with_logits(logits, dense)
        torch.testing.assert_close(BCELoss(reduction="mean").from_logits(logits, labels), expected)

    def test_weighted_bce_equals_torch(self):
        logits, labels, dense = random_case()
        weight = torch.linspace(0.5, 7, 11, dtype=torch.float64).float()
        expected = functional.binary_cross_entropy_with_logits(logits, dense, pos_weight=weight.double())
        loss = BCELoss(reduction="mean", positive_weight=weight)
        torch.testing.assert_close(loss.from_logits(logits, labels), expected)

    def test_each_row_of_bce_equals_torch(self):
        logits, labels, dense = random_case()
        expected = functional.binary_cross_entropy_with_logits(logits, dense, reduction="none").sum(1)
        torch.testing.assert_close(BCELoss(reduction="none").from_logits(logits, labels), expected)

    def test_masked_bce_equals_torch(self):
        """The mask as a weight of 0 on an element, and the mean over the remaining elements."""
        logits, labels, dense = random_case()
        _, mask, ignored = random_case(seed=1)
        assert (ignored * dense).any()  # positives too
        kept = 1 - ignored
        expected = functional.binary_cross_entropy_with_logits(logits, dense, kept, reduction="sum") / kept.sum()
        torch.testing.assert_close(BCELoss(reduction="mean").from_logits(logits, labels, mask), expected)

    @pytest.mark.parametrize("gamma", GAMMAS)
    @pytest.mark.parametrize("alpha", ALPHAS)
    def test_focal_equals_torchvision(self, gamma, alpha):
        logits, labels, dense = random_case()
        expected = sigmoid_focal_loss(logits, dense, -1 if alpha is None else alpha, gamma).sum()
        torch.testing.assert_close(FocalLoss(gamma, alpha, reduction="sum").from_logits(logits, labels), expected)

    def test_gamma_0_without_alpha_is_bce(self):
        logits, labels, _ = random_case()
        torch.testing.assert_close(FocalLoss(0).from_logits(logits, labels), BCELoss().from_logits(logits, labels))

    def test_at_logit_0(self):
        zero = torch.zeros(1, dtype=torch.float64)  # p = 1/2, -log p = log 2
        focal = FocalLoss(2, 0.25)
        assert BCELoss().positive(zero).item() == pytest.approx(LN2)
        assert BCELoss().negative(zero).item() == pytest.approx(LN2)
        assert focal.positive(zero).item() == pytest.approx(0.25 * 0.5**2 * LN2)
        assert focal.negative(zero).item() == pytest.approx(0.75 * 0.5**2 * LN2)

    def test_alpha_weighs_positives_and_its_rest_negatives(self):
        z = torch.tensor([-1.5, 0.5], dtype=torch.float64)
        plain, quarter, half, one = (FocalLoss(2, alpha) for alpha in ALPHAS)
        torch.testing.assert_close(quarter.positive(z), 0.25 * plain.positive(z))
        torch.testing.assert_close(quarter.negative(z), 0.75 * plain.negative(z))
        torch.testing.assert_close(half.positive(z), 0.5 * plain.positive(z))
        torch.testing.assert_close(half.negative(z), 0.5 * plain.negative(z))
        torch.testing.assert_close(one.positive(z), plain.positive(z))
        assert one.negative(z).tolist() == [0, 0]

    def test_gamma_takes_weight_from_what_is_right(self):
        right, wrong = torch.tensor([4.0]), torch.tensor([-4.0])
        share = {
            gamma: (FocalLoss(gamma).positive(right) / FocalLoss(gamma).positive(wrong)).item() for gamma in (0, 2)
        }
        assert share[2] < share[0] / 1000

    def test_loss_shrinks_as_the_logit_gets_right(self):
        z = torch.linspace(-10, 10, 101, dtype=torch.float64)
        for loss in LOSSES:
            assert (loss.positive(z).diff() <= 0).all()
            assert (loss.negative(z).diff() >= 0).all()


class TestSlopes:
    @every_loss
    @pytest.mark.parametrize("side", ["positive", "negative"])
    def test_value_and_slope_agree_with_autograd(self, loss, side):
        z = torch.linspace(-30, 30, 121, dtype=torch.float64, requires_grad=True)
        plain = getattr(loss, side)(z)
        (expected,) = torch.autograd.grad(plain.sum(), z)
        value, slope = getattr(loss, f"{side}_with_slope")(z.detach())
        torch.testing.assert_close(value, plain.detach())
        torch.testing.assert_close(slope, expected)

    @every_loss
    @pytest.mark.parametrize("side", ["positive", "negative"])
    def test_slope_is_the_difference_quotient(self, loss, side):
        z = torch.linspace(-8, 8, 41, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(getattr(loss, side), z)

    def test_the_gradient_goes_through_the_focal_factor(self):
        """f(z) = p^2 softplus(z), f'(z) = p^2 (2 (1 - p) softplus(z) + p); at 0: 1/4 (log 2 + 1/2)."""
        zero = torch.zeros(1, dtype=torch.float64)
        assert FocalLoss(2).negative_with_slope(zero)[1].item() == pytest.approx(0.25 * (LN2 + 0.5))
        assert FocalLoss(2).positive_with_slope(zero)[1].item() == pytest.approx(-0.25 * (LN2 + 0.5))

    @pytest.mark.parametrize("gamma", GAMMAS)
    def test_the_hardest_examples_keep_their_gradient(self, gamma):
        """p is not clamped: a positive at logit -100 still pulls with slope -1."""
        assert FocalLoss(gamma).positive_with_slope(torch.tensor([-100.0]))[1].item() == pytest.approx(-1)
        assert FocalLoss(gamma).negative_with_slope(torch.tensor([100.0]))[1].item() == pytest.approx(1)

    def test_a_users_loss_gets_its_slope_from_autograd(self):
        z = torch.tensor([-1.0, 3.0])
        value, slope = Squared().positive_with_slope(z)
        assert (value.tolist(), slope.tolist()) == ([4, 4], [-4, 4])  # (1 - z)^2 and -2 (1 - z)
        assert not value.requires_grad

    def test_the_slope_of_a_constant_is_zero(self):
        value, slope = OnlyPositives().negative_with_slope(torch.tensor([-1.0, 3.0]))
        assert (value.tolist(), slope.tolist()) == ([0, 0], [0, 0])

    def test_the_value_of_a_straight_line_can_be_written_to(self):
        z = torch.zeros(2, 3)
        StraightLines().negative_with_slope(z)[0][0, 0] = 5
        assert not z.any()

    def test_the_slope_of_a_straight_line_can_be_written_to(self):
        slope = OnlyPositives().positive_with_slope(torch.zeros(2, 3))[1]
        slope[0, 0] = 5
        assert slope.tolist() == [[5, -1, -1], [-1, -1, -1]]


class TestStable:
    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    @every_loss
    def test_values_and_slopes_are_finite(self, loss, dtype):
        z = torch.linspace(-100, 100, 401, dtype=dtype)
        before = z.clone()
        for part in (*loss.positive_with_slope(z), *loss.negative_with_slope(z)):
            assert part.dtype == dtype
            assert part.isfinite().all()
        assert torch.equal(z, before)


class TestReduction:
    LABELS = SparseLabels.from_lists([[0, 2], [1], []], num_labels=4)  # B = 3, L = 4, 3 positives

    @pytest.mark.parametrize(("reduction", "divisor"), [("sum", 1), ("positives", 3), ("batch", 3), ("mean", 12)])
    def test_divides_the_sum(self, reduction, divisor):
        value = BCELoss(reduction=reduction).from_logits(torch.zeros(3, 4), self.LABELS)
        assert value.item() == pytest.approx(12 * LN2 / divisor)  # log 2 at each of the 12 logits

    def test_positives_and_batch_differ(self):
        labels = SparseLabels.from_lists([[0, 1, 2, 3], [1]], num_labels=4)
        assert BCELoss(reduction="positives").from_logits(torch.zeros(2, 4), labels).item() == pytest.approx(
            8 * LN2 / 5
        )
        assert BCELoss(reduction="batch").from_logits(torch.zeros(2, 4), labels).item() == pytest.approx(8 * LN2 / 2)

    @pytest.mark.parametrize("reduction", ["positives", "batch", "mean", "sum"])
    def test_no_positives_divide_by_no_zero(self, reduction):
        labels = SparseLabels.from_lists([[], []], num_labels=4)
        value = BCELoss(reduction=reduction).from_logits(torch.zeros(2, 4), labels)
        assert value.item() == pytest.approx(8 * LN2 / {"positives": 1, "batch": 2, "mean": 8, "sum": 1}[reduction])

    def test_an_empty_batch_has_no_rows(self):
        labels = SparseLabels.from_lists([], num_labels=4)
        assert BCELoss(reduction="none").from_logits(torch.zeros(0, 4), labels).shape == (0,)
        assert BCELoss().from_logits(torch.zeros(0, 4), labels).item() == 0

    def test_the_paper_divides_by_positives_and_so_does_the_default(self):
        assert BCELoss().reduction == FocalLoss().reduction == Squared().reduction == "positives"


class TestErrors:
    @pytest.mark.parametrize("gamma", [-0.1, 5.1, math.nan, math.inf])
    def test_gamma_out_of_range(self, gamma):
        with pytest.raises(ConfigError) as caught:
            FocalLoss(gamma)
        assert str(caught.value) == f"gamma = {gamma!r} is not allowed. Expected a number from 0 to 5"

    @pytest.mark.parametrize("alpha", [-0.1, 1.1, math.nan])
    def test_alpha_out_of_range(self, alpha):
        with pytest.raises(ConfigError) as caught:
            FocalLoss(2, alpha)
        assert str(caught.value) == f"alpha = {alpha!r} is not allowed. Expected a number from 0 to 1, or None"

    def test_logits_of_another_shape(self):
        labels = SparseLabels.from_lists([[0], [1]], num_labels=3)
        with pytest.raises(ValueError, match=r"labels are 2 rows over 3 labels, but logits are \(3, 2\)"):
            BCELoss().from_logits(torch.zeros(3, 2), labels)
        with pytest.raises(ValueError, match=r"expected logits \(B, L\), got \(3,\)"):
            BCELoss().from_logits(torch.zeros(3), labels)

    @pytest.mark.parametrize("side", ["positive", "negative"])
    def test_a_loss_without_its_two_functions(self, side):
        with pytest.raises(NotImplementedError, match=rf"SeparableLoss must define {side}\(logits\)"):
            getattr(SeparableLoss(), side)(torch.zeros(1))


def test_print_shows_the_settings():
    weighted = BCELoss(positive_weight=[1.0, 2.0])
    assert repr(weighted) == "BCELoss(reduction='positives', positive_weight=(2,))"
    assert repr(FocalLoss(3, 0.25)) == "FocalLoss(gamma=3, alpha=0.25, reduction='positives')"
