import math

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.utils.class_weight import compute_class_weight

from hyperfocal.errors import ConfigError, DataError
from hyperfocal.losses import BCELoss
from hyperfocal.losses.weights import SCHEMES, as_counts, capped_weights, frequency_bias, log_frequencies, prior_bias

EXTREME = (
    [0],
    [0, 0, 0],
    [0, 5, 0],
    [10**15, 1, 0],
    [2**60, 1],
    [1e300, 1e-300, 0.0, 1.0],
    [1.7e308, 1.7e308, 1],
    [0.2, 0.9],
    torch.tensor([3, 0, 2**31 - 1], dtype=torch.int32),
    torch.tensor([255, 0], dtype=torch.uint8),
    torch.tensor([True, False]),
    torch.tensor([60000, 0.5], dtype=torch.float16),
    np.array([1, 2], dtype=np.uint64),
)
some_counts = st.lists(st.integers(0, 10**6), min_size=1, max_size=20)


class TestCappedWeights:
    def test_inverse(self):
        assert capped_weights([1000, 500, 250, 10, 0], cap=7).tolist() == [1, 2, 4, 7, 7]

    def test_sqrt_inverse(self):
        assert capped_weights([900, 100, 9, 0], "sqrt_inverse", cap=6).tolist() == [1, 3, 6, 6]

    def test_balanced_is_scikit_learns(self):
        classes = np.repeat(np.arange(4), [50, 20, 5, 1])
        expected = compute_class_weight("balanced", classes=np.arange(4), y=classes)
        assert capped_weights([50, 20, 5, 1], "balanced", cap=None).tolist() == pytest.approx(expected.tolist())

    def test_balanced_over_examples_with_several_labels(self):
        assert capped_weights([50, 20], "balanced", cap=9, num_examples=100).tolist() == [
            100 / (2 * 50),
            100 / (2 * 20),
        ]

    @pytest.mark.parametrize("beta", [0.9, 0.999, 0.9999])
    def test_effective_number_is_cuis(self, beta):
        """Cui et al. 2019: weights in proportion to (1 - beta) / (1 - beta^n), whose sum is the number of labels."""
        counts = [5000, 300, 20, 1]
        weights = [(1 - beta) / (1 - beta**count) for count in counts]
        got = capped_weights(counts, "effective_number", beta=beta, normalise=True, cap=None)
        assert got.tolist() == pytest.approx([4 * weight / sum(weights) for weight in weights], rel=1e-5)

    def test_effective_number_goes_from_alike_to_inverse(self):
        counts = [100, 10, 1]
        assert capped_weights(counts, "effective_number", beta=0, cap=None).tolist() == [1, 1, 1]
        near = capped_weights(counts, "effective_number", beta=1 - 1e-12, cap=None)
        torch.testing.assert_close(near, capped_weights(counts, cap=None))

    def test_normalised_before_the_cap(self):
        """Inverse 1, 2, 9: mean 4, so 0.25, 0.5, 2.25. A label without examples is not in the mean."""
        assert capped_weights([90, 45, 10, 0], normalise=True, cap=2).tolist() == [0.25, 0.5, 2, 2]

    def test_without_a_cap_no_example_weighs_as_one(self):
        assert capped_weights([100, 1, 0], cap=None).tolist() == [1, 100, 100]

    @pytest.mark.parametrize("scheme", SCHEMES)
    @pytest.mark.parametrize("normalise", [False, True])
    def test_without_any_example_all_weigh_alike(self, scheme, normalise):
        assert capped_weights([0, 0, 0], scheme, cap=7, normalise=normalise).tolist() == [7, 7, 7]
        assert capped_weights([0, 0, 0], scheme, cap=None, normalise=normalise).tolist() == [1, 1, 1]

    def test_balanced_without_any_example_of_a_known_number(self):
        """n / (L * 1), the weight of a label with one example."""
        assert capped_weights([0, 0], "balanced", cap=None, num_examples=100).tolist() == [50, 50]

    @pytest.mark.parametrize("scheme", SCHEMES)
    @pytest.mark.parametrize("cap", [None, 1, 7.0, 1e300])
    @pytest.mark.parametrize("normalise", [False, True])
    @pytest.mark.parametrize("num_examples", [None, 1, 10**6, 1e308])
    def test_a_loss_takes_the_weights_of_any_counts(self, scheme, cap, normalise, num_examples):
        """Also where float64 or float32 end: every weight is finite and above 0."""
        for counts in EXTREME:
            for beta in (0, 1e-300, 1 - 2**-53):
                weights = capped_weights(
                    counts, scheme, cap=cap, beta=beta, normalise=normalise, num_examples=num_examples
                )
                assert torch.equal(BCELoss(positive_weight=weights).positive_weight, weights)

    def test_a_float_in_a_list_is_not_rounded(self):
        """2^24 + 1 has no float32."""
        assert capped_weights([16777217.0, 1.0], cap=None)[0] == 1
        assert as_counts([16777217.0]).tolist() == [16777217]

    @pytest.mark.parametrize("scheme", SCHEMES)
    @pytest.mark.parametrize("normalise", [False, True])
    @given(counts=some_counts, cap=st.floats(1, 100))
    def test_finite_positive_capped_and_larger_for_rarer(self, scheme, normalise, counts, cap):
        weights = capped_weights(counts, scheme, cap=cap, normalise=normalise)
        assert weights.dtype == torch.float32
        assert weights.shape == (len(counts),)
        assert ((weights > 0) & (weights <= torch.tensor(cap))).all()
        assert (weights[torch.tensor(counts).argsort()].diff() <= 0).all()
        assert all(weight == torch.tensor(cap) for weight, count in zip(weights, counts, strict=True) if count == 0)

    def test_counts_that_require_a_gradient(self):
        with pytest.raises(ConfigError, match=r"counts requires a gradient, .* Pass counts\.detach\(\)"):
            capped_weights(torch.ones(2, requires_grad=True))

    def test_counts_of_any_kind(self):
        expected = capped_weights([4, 2])
        for counts in (
            torch.tensor([4, 2]),
            torch.tensor([4.0, 2.0]),
            np.array([4, 2], dtype=np.int32),
            (4, 2),
            pd.Series([4, 2], index=[8, 9]),
        ):
            assert torch.equal(capped_weights(counts), expected)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (
                {"scheme": "invers"},
                "scheme = 'invers' is not allowed. Did you mean 'inverse'? Expected one of inverse, ",
            ),
            ({"cap": 0.5}, "cap = 0.5 is not allowed. Expected a number of 1 or more, or None"),
            ({"cap": math.nan}, "cap = nan is not allowed."),
            ({"cap": math.inf}, "cap = inf is not allowed."),
            ({"beta": 1}, "beta = 1 is not allowed. Expected a number from 0 and below 1"),
            ({"num_examples": 0}, "num_examples = 0 is not allowed. Expected 1 or more, or None"),
            ({"num_examples": math.inf}, "num_examples = inf is not allowed. Expected 1 or more, or None"),
        ],
    )
    def test_options_not_allowed(self, options, message):
        with pytest.raises(ConfigError) as caught:
            capped_weights([1, 2], **options)
        assert str(caught.value).startswith(message)

    @pytest.mark.parametrize(
        ("counts", "message"),
        [
            ([3, -1], "counts: label 1 has -1.0 examples. Expected a number finite and not negative"),
            ([math.nan], "counts: label 0 has nan examples."),
            ([math.inf], "counts: label 0 has inf examples."),
            ([[1, 2]], "counts are (1, 2). Expected one number per label, (L,)"),
            ([], "counts are (0,). Expected one number per label, (L,)"),
            (["a"], "counts are no numbers: ['a']. Expected one number per label, (L,)"),
            ([None], "counts are no numbers: [None]. Expected one number per label, (L,)"),
            (None, "counts are no numbers: None. Expected one number per label, (L,)"),
            ({"a": 1}, "counts are no numbers: {'a': 1}. Expected one number per label, (L,)"),
            (np.array(["3"]), "counts are no numbers: array(['3']"),
            ([1 + 2j], "counts are no numbers: [(1+2j)]."),
            ([10**400], "counts are no numbers: ["),
            (
                torch.ones(2, dtype=torch.complex64),
                "counts are torch.complex64 on cpu. Expected real numbers with data",
            ),
            (torch.ones(2, device="meta"), "counts are torch.float32 on meta. Expected real numbers with data, (L,)"),
        ],
    )
    def test_counts_not_allowed(self, counts, message):
        with pytest.raises(DataError) as caught:
            capped_weights(counts)
        assert str(caught.value).startswith(message)


class TestFrequencyBias:
    def test_by_hand(self):
        """Of 98 examples none, half, all: (0 + 1) / (98 + 1), 50 / 50, 99 / 1."""
        assert frequency_bias([0, 49, 98], 98).tolist() == pytest.approx([-math.log(99), 0, math.log(99)])

    @given(st.lists(st.integers(0, 1000), min_size=1), st.floats(1e-3, 100))
    def test_a_sigmoid_gives_the_smoothed_frequency_back(self, counts, smoothing):
        bias = frequency_bias(counts, 1000, smoothing=smoothing)
        expected = (torch.tensor(counts, dtype=torch.float64) + smoothing) / (1000 + 2 * smoothing)
        assert bias.isfinite().all()
        torch.testing.assert_close(bias.double().sigmoid(), expected, rtol=1e-4, atol=1e-6)

    def test_without_much_smoothing_it_is_the_prior_bias(self):
        assert frequency_bias([10], 1000, smoothing=1e-6).item() == pytest.approx(prior_bias(0.01), rel=1e-5)

    @pytest.mark.parametrize("smoothing", [0, -1, math.nan, math.inf])
    def test_smoothing_not_allowed(self, smoothing):
        with pytest.raises(ConfigError, match=rf"smoothing = {smoothing} is not allowed. Expected a number above 0"):
            frequency_bias([1], 10, smoothing=smoothing)

    def test_more_than_all(self):
        with pytest.raises(DataError, match=r"counts: label 0 has 11\.0 examples\. Expected a number from 0 to 10"):
            frequency_bias([11], 10)


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


def test_log_frequencies_of_sums_of_weights():
    """A sum of weights below 1 is not a label without an example, which counts as one."""
    np.testing.assert_allclose(log_frequencies([1000.0, 0.1]).exp(), [1000 / 1000.1, 0.1 / 1000.1], rtol=1e-5)
    np.testing.assert_allclose(log_frequencies([3, 0]).exp(), [0.75, 0.25], rtol=1e-6)
