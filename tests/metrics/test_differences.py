import math

import pytest
import torch
from scipy import stats

from hyperfocal.errors import DataError
from hyperfocal.metrics.differences import Outcome, compare_outcomes, holm, pooled_spread


def outcome(value: float, resamples: list[float], seed: int = 0, metric: str = "m") -> Outcome:
    return Outcome(seed, {metric: value}, {metric: torch.tensor(resamples, dtype=torch.float64)})


# A difference


def test_one_seed_is_the_normal_interval_of_the_documents():
    found = compare_outcomes([outcome(0.5, [0.4, 0.6, 0.5])], [outcome(0.4, [0.4, 0.4, 0.4])], "m")
    error = 0.1  # the differences 0.0, 0.2, 0.1 have the variance 0.01
    assert (found.ours, found.theirs, found.seeds) == (0.5, 0.4, 1)
    assert found.mean == pytest.approx(0.1)
    assert (found.low, found.high) == pytest.approx((0.1 - 1.959964 * error, 0.1 + 1.959964 * error), abs=1e-6)
    assert found.p == pytest.approx(2 * (1 - 0.841344746), abs=1e-8)  # one standard error
    assert found.percent == pytest.approx((25, 25 * found.low / 0.1, 25 * found.high / 0.1))


def test_seeds_alone_are_the_paired_t_test():
    ours, theirs = [0.50, 0.53, 0.49], [0.45, 0.46, 0.47]
    sides = [[outcome(v, [v, v], seed) for seed, v in enumerate(side)] for side in (ours, theirs)]
    found, oracle = compare_outcomes(*sides, "m"), stats.ttest_rel(ours, theirs)
    assert found.p == pytest.approx(oracle.pvalue, rel=1e-9)
    assert (found.low, found.high) == pytest.approx(tuple(oracle.confidence_interval()), rel=1e-9)


def test_documents_and_seeds_add():
    ours = [outcome(0.3, [0.2, 0.4], 0), outcome(0.5, [0.5, 0.5], 1)]
    theirs = [outcome(0.2, [0.2, 0.2], 0), outcome(0.2, [0.2, 0.2], 1)]
    found = compare_outcomes(ours, theirs, "m")
    # mean over seeds of the resampled differences: (0 + 0.3) / 2 and (0.2 + 0.3) / 2; differences 0.1 and 0.3
    of_documents, of_seeds = 0.1**2 / 2, 0.2**2 / 2 / 2
    error, freedom = math.sqrt(of_documents + of_seeds), (of_documents + of_seeds) ** 2 / of_seeds**2
    assert found.mean == pytest.approx(0.2)
    assert found.high - found.mean == pytest.approx(error * stats.t.ppf(0.975, freedom), rel=1e-9)
    assert found.p == pytest.approx(2 * stats.t.sf(0.2 / error, freedom), rel=1e-9)


def test_a_point_varies_at_least_as_the_grid_does():
    base = [outcome(0.0, [0, 0], seed) for seed in range(2)]
    calm = [outcome(value, [value, value], seed) for seed, value in enumerate((0.1, 0.1))]
    wild = [outcome(value, [value, value], seed) for seed, value in enumerate((0.0, 0.4))]  # variance 0.08
    spread = pooled_spread([calm, wild], base, "m")
    assert spread == pytest.approx(((0 + 0.08) / 2, 2 / (1 + 1 / 4)))
    found = compare_outcomes(calm, base, "m", spread=spread)
    assert found.high - found.mean == pytest.approx(math.sqrt(0.04 / 2) * stats.t.ppf(0.975, 1.6), rel=1e-9)
    lost = compare_outcomes(calm[:1], base, "m", spread=spread)  # one seed varies as the grid's others do
    assert lost.high - lost.mean == pytest.approx(math.sqrt(0.04) * stats.t.ppf(0.975, 1.6), rel=1e-9)
    assert pooled_spread([calm[:1]], base, "m") is None


def test_seeds_are_paired_by_number_and_only_common_ones_count():
    ours = [outcome(0.9, [0.9, 0.9], 7), outcome(0.5, [0.4, 0.6], 1), outcome(0.4, [0.4, 0.5], 0)]
    theirs = [outcome(0.3, [0.3, 0.3], 0), outcome(0.4, [0.4, 0.4], 1), outcome(0.0, [0.0, 0.0], 2)]
    assert compare_outcomes(ours, theirs, "m") == compare_outcomes(ours[1:], theirs[1::-1], "m")
    assert compare_outcomes(ours, theirs, "m").seeds == 2


def test_without_spread():
    same, more = outcome(0.5, [0.5, 0.4]), outcome(0.75, [0.75, 0.65])
    assert compare_outcomes([same], [same], "m").p == 1
    assert (compare_outcomes([more], [same], "m").p, compare_outcomes([more], [same], "m").low) == (
        1,
        0.25,
    )  # nothing tells of chance


def test_nothing_to_compare_is_nan():
    known, unknown = outcome(0.5, [0.4, 0.5]), outcome(math.nan, [math.nan, math.nan])
    other_seed, one_resample = outcome(0.5, [0.4, 0.5], 1), outcome(0.5, [0.5])
    for ours, theirs in (([], []), ([known], [other_seed]), ([unknown], [known]), ([one_resample], [one_resample])):
        assert math.isnan(compare_outcomes(ours, theirs, "m").p)
    assert math.isnan(compare_outcomes([known], [known], "n").mean)
    assert math.isnan(
        compare_outcomes([outcome(0.5, [0, 1])], [outcome(0.0, [0, 0])], "m").percent.mean
    )  # no share of 0


def test_a_resample_without_a_tail_document_is_left_out():
    ours, theirs = outcome(0.5, [0.4, 0.6, 0.5]), outcome(0.4, [0.4, 0.4, 0.4])
    hole = outcome(0.5, [0.4, math.nan, 0.6, 0.5])
    assert compare_outcomes([hole], [outcome(0.4, [0.4] * 4)], "m").p == compare_outcomes([ours], [theirs], "m").p


def test_resamples_that_are_not_shared():
    with pytest.raises(DataError, match=r"'m', seed 0: resamples of \(2,\) and \(3,\)\. Expected the same"):
        compare_outcomes([outcome(0, [0, 1])], [outcome(0, [0, 1, 2])], "m")
    with pytest.raises(DataError, match="has a value and no resamples"):
        compare_outcomes([Outcome(0, {"m": 0.0}, {})], [outcome(0, [0, 1])], "m")


# Holm


@pytest.mark.parametrize(
    ("p", "adjusted"),
    [
        ([], []),
        ([0.04], [0.04]),
        ([0.01, 0.02, 0.03], [3 * 0.01, 2 * 0.02, 2 * 0.02]),
        ([0.03, 0.001, 0.02], [2 * 0.02, 3 * 0.001, 2 * 0.02]),
        ([0.6, 0.7], [1, 1]),
        ([0.02, math.nan, 0.01], [0.02, math.nan, 2 * 0.01]),
        ([0.01, 0.01], [0.02, 0.02]),
    ],
)
def test_holm(p, adjusted):
    assert holm(p) == pytest.approx(adjusted, nan_ok=True)
