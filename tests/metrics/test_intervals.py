import math

import pytest
import torch
from scipy import stats

from hyperfocal.metrics import intervals as compare
from hyperfocal.metrics.intervals import (
    GROUPS,
    RESAMPLES,
    mean_intervals,
    paired_difference,
    resampled_means,
    shown_sign,
    too_few,
)


def normal(users: int, columns: int = 1, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(users, columns, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("users", [400, 3_000, 4 * GROUPS, 4 * GROUPS + 123])
def test_a_large_sample_gives_the_normal_interval(users):
    values = 0.3 + 2 * normal(users)
    interval = mean_intervals(values)[0]
    error = values.std().item() / math.sqrt(users)
    assert interval.mean == pytest.approx(values.mean().item(), abs=1e-12)
    # a quantile of 1,000 resamples has a standard error of about 0.085 of the mean's; 4 of them
    assert interval.low == pytest.approx(interval.mean - 1.96 * error, abs=0.35 * error)
    assert interval.high == pytest.approx(interval.mean + 1.96 * error, abs=0.35 * error)


def test_the_interval_holds_the_truth_in_19_of_20_samples():
    values = normal(200, 2_000).exp()  # skewed; 2,000 samples of 200 users
    held = [interval.low <= math.exp(0.5) <= interval.high for interval in mean_intervals(values)]
    assert 0.88 < sum(held) / len(held) < 0.97  # percentile intervals of skewed values are a little short


def test_the_mean_is_over_users_not_groups():
    values = torch.zeros(GROUPS + 1, 1)
    values[0] = 1
    assert mean_intervals(values)[0].mean == pytest.approx(1 / (GROUPS + 1), rel=1e-12)


def test_nan_says_nothing_of_a_user():
    known = normal(300)
    values = torch.cat([known, torch.full((500, 1), math.nan)])
    some, alone = mean_intervals(values)[0], mean_intervals(known)[0]
    assert some.mean == pytest.approx(known.mean().item(), abs=1e-12)
    assert some.high - some.low == pytest.approx(alone.high - alone.low, rel=0.25)  # of 300 users, not 800


@pytest.mark.parametrize("missing", [math.nan, math.inf, -math.inf])
def test_a_column_without_a_value_leaves_the_others_alone(missing):
    values = torch.cat([normal(50), torch.full((50, 1), missing, dtype=torch.float64)], 1)
    known, unknown = mean_intervals(values)
    assert known == mean_intervals(values[:, :1])[0]
    assert all(math.isnan(value) for value in unknown)


def test_infinity_is_left_out():
    values = torch.tensor([[1.0], [math.inf], [3.0]])
    assert mean_intervals(values)[0].mean == 2


@pytest.mark.parametrize("shape", [(0, 2), (3, 0), (0, 0)])
def test_nothing(shape):
    intervals = mean_intervals(torch.zeros(shape))
    assert len(intervals) == shape[1]
    assert all(math.isnan(value) for interval in intervals for value in interval)


def test_one_user_has_no_spread():
    assert mean_intervals(torch.tensor([[0.25]]))[0] == (0.25, 0.25, 0.25)


def test_equal_values_have_no_spread():
    assert mean_intervals(torch.full((700, 1), 0.5))[0] == (0.5, 0.5, 0.5)


@pytest.mark.parametrize(("number", "told"), [(5, False), (19, False), (20, True)])
def test_of_fewer_than_twenty_nobody_wins(number, told):
    ours = torch.rand(number, generator=torch.Generator().manual_seed(0)) + 1
    difference = paired_difference(ours, torch.zeros(number))
    assert difference.low > 0
    assert shown_sign(difference, number) == int(told)
    assert shown_sign(paired_difference(torch.zeros(number), ours), number) == -int(told)
    assert bool(too_few(number)) != told


def test_a_difference_has_the_interval_of_the_paired_t_test():
    ours, theirs = normal(20, 2).T
    oracle = stats.ttest_rel(ours, theirs).confidence_interval()
    assert paired_difference(ours, theirs)[1:] == pytest.approx((oracle.low, oracle.high), rel=1e-9)


def test_of_one_user_nothing_is_known():
    alone = paired_difference(torch.tensor([0.5]), torch.tensor([0.25]))
    assert (alone.mean, math.isnan(alone.low), shown_sign(alone, 1)) == (0.25, True, 0)


def test_an_interval_without_width_shows_nothing():
    same = paired_difference(torch.full((700,), 1 / 3), torch.zeros(700))
    assert same.low == pytest.approx(1 / 3)
    assert shown_sign(same, 700) == 0


def test_the_seed_decides():
    values = normal(100)
    assert mean_intervals(values, seed=1) == mean_intervals(values, seed=1)
    assert mean_intervals(values, seed=1) != mean_intervals(values, seed=2)


def test_columns_share_the_resamples():
    values = normal(100)
    one, twice = mean_intervals(torch.cat([values, 2 * values], 1))
    assert twice == pytest.approx([2 * value for value in one], rel=1e-12)


def test_the_global_generator_is_left_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    mean_intervals(normal(10))
    assert torch.equal(before, torch.get_rng_state())


def test_many_users_are_resampled_in_groups(monkeypatch):
    monkeypatch.setattr(compare, "GROUPS", 500)
    values = normal(10_000)
    grouped = mean_intervals(values)[0]
    error = values.std().item() / 100
    assert grouped.high - grouped.low == pytest.approx(2 * 1.96 * error, rel=0.15)


def test_a_pair_is_compared_user_by_user():
    hard = 5 * normal(500)[:, 0]  # users differ much, the models little
    ours, theirs = hard + 0.1 + 0.01 * normal(500, seed=1)[:, 0], hard
    difference = paired_difference(ours, theirs)
    assert 0.09 < difference.low < 0.1 < difference.high < 0.11
    assert difference.mean == pytest.approx((ours.mean() - theirs.mean()).item(), abs=1e-12)
    turned = paired_difference(theirs, ours)
    assert turned == pytest.approx((-difference.mean, -difference.high, -difference.low), abs=1e-12)


def test_a_pair_of_floats_is_compared_in_double():
    ours, theirs = torch.tensor([1.0, 1.0]), torch.tensor([2.0**-30, 2.0**-30])
    assert paired_difference(ours, theirs).mean == 1 - 2**-30


def test_resampled_means_are_those_of_the_intervals_and_of_every_other_column():
    """So two models that are scored apart, on the same users, can be subtracted resample by resample."""
    values = normal(50, 2)
    values[::3, 1] = torch.nan
    both = resampled_means(values)
    assert both.shape == (RESAMPLES, 2)
    ends = both.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64), dim=0)
    assert [list(each[1:]) for each in mean_intervals(values)] == [pytest.approx(column) for column in ends.T.tolist()]
    torch.testing.assert_close(resampled_means(values[:, 1:]), both[:, 1:])
