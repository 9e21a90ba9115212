import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hyperfocal.errors import ConfigError
from hyperfocal.losses.weights import prior_bias


def test_a_rare_label_starts_negative():
    assert prior_bias(0.01) == pytest.approx(-math.log(99))  # about -4.6; without the minus sign p starts at 0.99
    assert prior_bias(0.01) == pytest.approx(-4.59512, abs=1e-5)


@pytest.mark.parametrize(("prior", "bias"), [(0.5, 0.0), (0.25, -math.log(3)), (0.75, math.log(3))])
def test_values(prior, bias):
    assert prior_bias(prior) == pytest.approx(bias)


@given(st.floats(1e-12, 1 - 1e-6))
def test_a_sigmoid_gives_the_prior_back(prior):
    assert torch.sigmoid(torch.tensor(prior_bias(prior), dtype=torch.float64)).item() == pytest.approx(prior)


@given(st.floats(1e-6, 0.5))
def test_the_other_outcome_has_the_opposite_bias(prior):
    assert prior_bias(1 - prior) == pytest.approx(-prior_bias(prior), abs=1e-8)


@pytest.mark.parametrize("prior", [0, 1, -0.1, 1.1, math.nan, math.inf])
def test_out_of_range(prior):
    with pytest.raises(ConfigError) as caught:
        prior_bias(prior)
    assert str(caught.value) == f"prior = {prior!r} is not allowed. Expected a probability above 0 and below 1"
