"""ASL against the paper's equations, written with probabilities."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hyperfocal.errors import ConfigError
from hyperfocal.losses import AsymmetricLoss, FocalLoss

SETTINGS = [(0, 4, 0.05), (1, 4, 0.05), (0, 0, 0.2), (0.5, 0.5, 0.2), (2, 1, 0.5), (1, 2, 0)]
every_setting = pytest.mark.parametrize("setting", SETTINGS, ids=str)
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def paper(z, gamma_positive, gamma_negative, margin):
    """Return L+ and L- with a minus, so that they are losses.

    Source: Ridnik et al. 2021, equations 4 (L+), 5 (p_m) and 7 (L-).
    """
    p = torch.sigmoid(z)
    p_m = torch.clamp(p - margin, min=0)
    return -((1 - p) ** gamma_positive) * torch.log(p), -(p_m**gamma_negative) * torch.log(1 - p_m)


@every_setting
def test_values_are_the_papers(setting):
    z = torch.linspace(-8, 8, 161, dtype=torch.float64)
    loss, (positive, negative) = AsymmetricLoss(*setting), paper(z, *setting)
    torch.testing.assert_close(loss.positive(z), positive)
    torch.testing.assert_close(loss.negative(z), negative)


@every_setting
def test_slopes_are_those_of_the_papers_equations(setting):
    """At 160 logits, none of them at the corner p = margin."""
    z = torch.linspace(-8, 8, 160, dtype=torch.float64, requires_grad=True)
    loss, equations = AsymmetricLoss(*setting), paper(z, *setting)
    for equation, slope_of in zip(equations, (loss.positive_with_slope, loss.negative_with_slope), strict=True):
        (expected,) = torch.autograd.grad(equation.sum(), z, retain_graph=True)
        if setting[1] < 1:
            expected = expected.nan_to_num()  # 0^-0.5 below the margin
        torch.testing.assert_close(slope_of(z.detach())[1], expected)


def test_by_hand():
    """p = 1/2 and margin 1/4: p_m = 1/4, so neg = (1/4)^2 * -log(3/4); neg' = p_m^2 (2 * -log(3/4) / p_m + 4/3) / 4."""
    zero = torch.zeros(1, dtype=torch.float64)
    value, slope = AsymmetricLoss(0, 2, 0.25).negative_with_slope(zero)
    cross = -math.log(3 / 4)
    assert value.item() == pytest.approx(cross / 16)
    assert slope.item() == pytest.approx((2 * cross * 4 + 4 / 3) / 16 / 4)


@given(st.floats(0.001, 0.9), st.floats(0, 5))
def test_an_easy_negative_counts_nothing(margin, gamma):
    z = math.log(margin / (1 - margin)) - torch.tensor([1e-3, 1, 50], dtype=torch.float64)
    value, slope = AsymmetricLoss(0, gamma, margin).negative_with_slope(z)
    assert value.tolist() == slope.tolist() == [0, 0, 0]


@pytest.mark.parametrize("gamma", [0, 0.5, 2])
def test_without_margin_it_is_focal_loss(gamma):
    z = torch.linspace(-100, 100, 51)
    asymmetric, focal = AsymmetricLoss(gamma, gamma, 0), FocalLoss(gamma)
    torch.testing.assert_close(asymmetric.positive_with_slope(z), focal.positive_with_slope(z))
    torch.testing.assert_close(asymmetric.negative_with_slope(z), focal.negative_with_slope(z))


@every_setting
def test_detached_the_factor_is_a_constant(setting):
    """The same value; the slope is factor * (d cross-entropy / d z), -(1 - p) and p (1 - p) / (1 - p_m)."""
    z = torch.linspace(-8, 8, 160, dtype=torch.float64)
    loss, plain, margin = AsymmetricLoss(*setting, detach=True), AsymmetricLoss(*setting), setting[2]
    p = torch.sigmoid(z)
    p_m = torch.clamp(p - margin, min=0)
    value, slope = loss.positive_with_slope(z)
    torch.testing.assert_close(value, plain.positive(z))
    torch.testing.assert_close(slope, (1 - p) ** setting[0] * -(1 - p))
    value, slope = loss.negative_with_slope(z)
    torch.testing.assert_close(value, plain.negative(z))
    expected = torch.where(p > margin, p_m ** setting[1] * p * (1 - p) / (1 - p_m), 0)
    torch.testing.assert_close(slope, expected)


def test_detached_and_not_are_two_gradients_under_two_names():
    z = torch.tensor([1.0])
    assert (
        AsymmetricLoss(1, 4, 0.05).negative_with_slope(z)[1]
        > AsymmetricLoss(1, 4, 0.05, detach=True).negative_with_slope(z)[1]
    )


@every_setting
@pytest.mark.parametrize("detach", [False, True])
def test_slopes_agree_with_autograd(setting, detach):
    z = torch.linspace(-30, 30, 120, dtype=torch.float64, requires_grad=True)
    loss = AsymmetricLoss(*setting, detach=detach)
    for side in ("positive", "negative"):
        value = getattr(loss, side)(z)
        (expected,) = torch.autograd.grad(value.sum(), z)
        got = getattr(loss, f"{side}_with_slope")(z.detach())
        torch.testing.assert_close(got, (value.detach(), expected))


@every_setting
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_finite_at_every_logit(setting, dtype):
    z = torch.linspace(-100, 100, 401, dtype=dtype)
    for detach in (False, True):
        loss = AsymmetricLoss(*setting, detach=detach)
        for part in (*loss.positive_with_slope(z), *loss.negative_with_slope(z)):
            assert part.dtype == dtype
            assert part.isfinite().all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gamma_positive": -1}, "gamma_positive = -1 is not allowed. Expected a number from 0 to 5"),
        ({"gamma_negative": 5.5}, "gamma_negative = 5.5 is not allowed. Expected a number from 0 to 5"),
        ({"margin": 1}, "margin = 1 is not allowed. Expected a number from 0 and below 1"),
        ({"margin": math.nan}, "margin = nan is not allowed. Expected a number from 0 and below 1"),
    ],
)
def test_out_of_range(options, message):
    with pytest.raises(ConfigError) as caught:
        AsymmetricLoss(**options)
    assert str(caught.value) == message


def test_print_shows_the_settings():
    expected = "gamma_positive=0.0, gamma_negative=4.0, margin=0.05, detach=True, reduction='sum'"
    assert repr(AsymmetricLoss(detach=True, reduction="sum")) == f"AsymmetricLoss({expected})"
