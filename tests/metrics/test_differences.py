import math

import numpy as np
import pytest
import torch
from scipy import stats

from hyperfocal.errors import DataError
from hyperfocal.metrics.differences import Moments, Outcome, compare_outcomes, holm, spread_of


def outcome(value: float, resamples: list[float], seed: int = 0, metric: str = "m") -> Outcome:
    return Outcome(seed, {metric: value}, {metric: torch.tensor(resamples, dtype=torch.float64)})


def difference(ours: list[Outcome], theirs: list[Outcome], metric: str = "m", **options):
    return compare_outcomes({"ours": ours, "theirs": theirs}, "theirs", metric, **options)["ours"]


# A difference


def test_one_seed_is_the_interval_of_the_documents():
    shown = difference([outcome(0.5, [0.4, 0.6, 0.5])], [outcome(0.4, [0.4, 0.4, 0.4])])
    error = 0.1  # the differences 0.0, 0.2, 0.1 have the variance 0.01
    assert (shown.ours, shown.theirs, shown.seeds, shown.repeated) == (0.5, 0.4, 1, False)
    assert shown.mean == pytest.approx(0.1)
    assert (shown.low, shown.high) == pytest.approx((0.1 - 1.959964 * error, 0.1 + 1.959964 * error), abs=1e-6)
    assert shown.p == pytest.approx(2 * (1 - 0.841344746), abs=1e-8)  # one standard error
    assert shown.percent == pytest.approx((25, 25 * shown.low / 0.1, 25 * shown.high / 0.1))


def test_few_documents_have_few_degrees_of_freedom():
    shown = difference([outcome(0.5, [0.4, 0.6, 0.5])], [outcome(0.4, [0.4, 0.4, 0.4])], units=20)
    assert shown.high - shown.mean == pytest.approx(0.1 * 2.093024, abs=1e-6)  # t of 19 degrees of freedom


def test_seeds_alone_are_the_t_test_of_two_samples():
    ours, theirs = [0.50, 0.53, 0.49], [0.45, 0.46, 0.47]
    sides = [[outcome(v, [v, v], seed) for seed, v in enumerate(side)] for side in (ours, theirs)]
    shown, oracle = difference(*sides), stats.ttest_ind(ours, theirs)
    assert shown.p == pytest.approx(oracle.pvalue, rel=1e-9)
    assert (shown.low, shown.high) == pytest.approx(tuple(oracle.confidence_interval()), rel=1e-9)
    assert shown.repeated


def test_documents_and_seeds_add():
    ours = [outcome(0.3, [0.2, 0.4], 0), outcome(0.5, [0.4, 0.6], 1)]
    theirs = [outcome(0.2, [0.2, 0.2], 0), outcome(0.1, [0.1, 0.1], 1)]
    shown = difference(ours, theirs)
    of_documents, of_seeds = 0.2**2 / 2, (0.2**2 + 0.1**2) / 2 / 2  # means of 0.15 and 0.35 in the two resamples
    cautious = of_seeds * (1 + 2 / 2)  # two points of two seeds
    freedom = (of_documents + cautious) ** 2 / (cautious**2 / 2)
    assert shown.mean == pytest.approx(0.25)
    assert shown.high - shown.mean == pytest.approx(
        math.sqrt(of_documents + of_seeds) * stats.t.ppf(0.975, freedom), rel=1e-9
    )


def test_the_difference_of_the_baseline_from_itself_is_zero():
    base = [outcome(value, [value, value + 0.1], seed) for seed, value in enumerate((0.1, 0.3))]
    own = compare_outcomes({"base": base}, "base", "m")["base"]
    assert (own.ours, own.mean, own.low, own.high, own.p, own.seeds) == (pytest.approx(0.2), 0, 0, 0, 1, 2)


def crossed(seeds: int, documents: int, generator: np.random.Generator, *, interaction: float) -> np.ndarray:
    """Return (seeds, documents) scores of one point whose trainings are equally good."""
    return generator.normal(size=documents) + interaction * generator.normal(size=(seeds, documents))


def outcomes_of(scores: np.ndarray, weights: np.ndarray) -> list[Outcome]:
    resampled = scores @ weights.T / weights.sum(1)
    return [
        Outcome(seed, {"m": float(row.mean())}, {"m": torch.from_numpy(resampled[seed])})
        for seed, row in enumerate(scores)
    ]


def test_the_interaction_of_seeds_and_documents_counts_once():
    """Trainings that are equally good on the whole, and far apart on each document: as the mean of them on each."""
    generator, documents, seeds = np.random.default_rng(0), 400, 3
    weights = generator.poisson(1.0, size=(2_000, documents)).astype(float)
    scores = crossed(seeds, documents, generator, interaction=3.0)
    scores -= scores.mean(1, keepdims=True)
    shown = difference(outcomes_of(scores, weights), outcomes_of(np.zeros((seeds, documents)), weights))
    oracle = stats.ttest_1samp(scores.mean(0), 0).confidence_interval()
    assert (shown.high - shown.low) == pytest.approx(oracle.high - oracle.low, rel=0.05)


def test_what_documents_add_to_the_variance_of_seeds_is_subtracted():
    ours = [outcome(0.3, [0.25, 0.35], 0), outcome(0.5, [0.5, 0.5], 1)]  # v = 0.02, c = 2 x 0.00125
    theirs = [outcome(0.2, [0.2, 0.2], seed) for seed in range(2)]
    shown = difference(ours, theirs)
    error = math.sqrt(0.00125 + (0.02 - 0.0025) / 2)  # the means 0.375 and 0.425 of the resamples vary by 0.00125
    assert shown.high - shown.mean == pytest.approx(error * stats.t.ppf(0.975, 1), rel=1e-9)


def test_the_variance_is_that_of_the_crossed_analysis_of_variance():
    """(documents + seeds - interaction) / number, all from the squares of a point whose baseline is 0."""
    generator, documents, seeds = np.random.default_rng(1), 300, 4
    scores = crossed(seeds, documents, generator, interaction=0.5) + generator.normal(size=(seeds, 1))
    weights = generator.poisson(1.0, size=(4_000, documents)).astype(float)
    shown = difference(outcomes_of(scores, weights), outcomes_of(np.zeros((1, documents)), weights))
    residuals = scores - scores.mean(0) - scores.mean(1, keepdims=True) + scores.mean()
    interaction = (residuals**2).sum() / (documents - 1) / (seeds - 1)
    squares = seeds * scores.mean(0).var(ddof=1), documents * scores.mean(1).var(ddof=1)
    several = scores.mean(1).var(ddof=1) - interaction / documents  # of the baseline's one training
    variance = (sum(squares) - interaction) / (documents * seeds) + several
    seeds_part = scores.mean(1).var(ddof=1) * (1 + 1 / seeds)
    cautious = seeds_part * (1 + 2 / (seeds - 1))
    freedom = (variance + cautious - seeds_part) ** 2 / (cautious**2 / (seeds - 1))
    assert shown.high - shown.mean == pytest.approx(math.sqrt(variance) * stats.t.ppf(0.975, freedom), rel=0.03)


def test_the_variance_of_a_point_is_shrunk_towards_the_mean():
    points = [Moments(3, 0.01, 0), Moments(3, 0.03, 0), Moments(1, 0, 0)]
    mean = 0.02
    assert spread_of(points, 0, 1).variance == pytest.approx(((mean + 0.01) / 2 + (mean + 0.03) / 2) / 3)
    assert spread_of(points, 0, 1).freedom == pytest.approx(4)  # all there are: two points of three seeds
    assert spread_of(points, 2, 0).variance == pytest.approx(mean + (mean + 0.01) / 2 / 3)
    assert spread_of([Moments(1, 0, 0)] * 2, 0, 1).freedom == 0


def test_points_without_randomness_are_left_out_of_the_mean():
    """A network keeps the variance that it has among networks, and a fixed model adds none of its own."""
    networks, fixed = [Moments(3, 0.01, 0), Moments(3, 0.03, 0)], [Moments(3, 1e-33, 1e-34)] * 3
    assert spread_of([*networks, *fixed], 0, 1) == pytest.approx(spread_of(networks, 0, 1))
    assert spread_of([*networks, *fixed], 0, 2).variance == pytest.approx((0.02 + 0.01) / 2 / 3)
    assert spread_of(fixed, 0, 1) == (0, 0, 0)


def test_the_seeds_of_other_points_speak_for_a_single_training():
    points = {
        "one": [outcome(0.5, [0.49, 0.51])],
        "base": [outcome(0.4, [0.4, 0.4])],
        "repeated": [outcome(value, [value, value], seed) for seed, value in enumerate((0.1, 0.3))],
    }
    alone = compare_outcomes({name: points[name] for name in ("one", "base")}, "base", "m")["one"]
    informed = compare_outcomes(points, "base", "m")["one"]
    assert (alone.repeated, informed.repeated) == (False, True)
    assert informed.high - informed.low > 10 * (alone.high - alone.low)


def test_the_number_of_seeds_may_differ():
    ours = [outcome(value, [value, value], seed) for seed, value in enumerate((0.4, 0.5, 0.6))]
    shown = difference(ours, [outcome(0.4, [0.4, 0.4], 7)])
    assert (shown.mean, shown.seeds, shown.repeated) == (pytest.approx(0.1), 1, True)


def test_without_spread():
    same, more = outcome(0.5, [0.5, 0.4]), outcome(0.75, [0.75, 0.65])
    assert difference([same], [same]).p == 1
    assert (difference([more], [same]).p, difference([more], [same]).low) == (1, 0.25)  # nothing tells of chance


def test_nothing_to_compare_is_nan():
    known, unknown = outcome(0.5, [0.4, 0.5]), outcome(math.nan, [math.nan, math.nan])
    one_resample = outcome(0.5, [0.5])
    for ours, theirs in (([], []), ([known], []), ([unknown], [known]), ([one_resample], [one_resample])):
        assert math.isnan(difference(ours, theirs).p)
    assert math.isnan(difference([known], [known], "n").mean)
    assert math.isnan(difference([outcome(0.5, [0, 1])], [outcome(0.0, [0, 0])]).percent.mean)  # no share of 0


def test_a_resample_without_a_tail_document_is_left_out():
    ours, theirs = outcome(0.5, [0.4, 0.6, 0.5]), outcome(0.4, [0.4, 0.4, 0.4])
    hole = outcome(0.5, [0.4, math.nan, 0.6, 0.5])
    assert difference([hole], [outcome(0.4, [0.4] * 4)]).p == difference([ours], [theirs]).p
    several = [[hole, outcome(0.6, [0.5, math.nan, 0.7, 0.6], 1)], [outcome(0.4, [0.4] * 4)]]
    assert math.isfinite(difference(*several).p)


def test_resamples_that_are_not_shared():
    with pytest.raises(DataError, match=r"'m': resamples of \(2,\) and \(3,\)\. Expected the same"):
        difference([outcome(0, [0, 1])], [outcome(0, [0, 1, 2])])
    with pytest.raises(DataError, match="its seeds have resamples of different shapes"):
        difference([outcome(0, [0, 1]), outcome(0, [0, 1, 2], 1)], [outcome(0, [0, 1])])
    with pytest.raises(DataError, match="has a value and no resamples"):
        difference([Outcome(0, {"m": 0.0}, {})], [outcome(0, [0, 1])])


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
