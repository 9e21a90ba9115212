import itertools
import math
from dataclasses import replace

import pytest
import torch
from scipy import stats

from hyperfocal.errors import ConfigError
from hyperfocal.metrics.differences import Outcome
from hyperfocal.metrics.verdict import (
    BASELINE,
    FAMILIES,
    LABELS,
    NOT_COMPARED,
    NOTHING,
    THRESHOLD,
    in_words,
    rankings,
    verdicts,
)


def outcome(value: float, resamples: list[float], seed: int = 0, metric: str = "m") -> Outcome:
    return Outcome(seed, {metric: value}, {metric: torch.tensor(resamples, dtype=torch.float64)})


def sure(metrics: dict[str, float], seed: int = 0) -> Outcome:
    """An outcome that varies by about 0.01 over the resamples, by itself for each metric."""
    noise = 0.01 * torch.randn(len(FAMILIES), 200, generator=torch.Generator().manual_seed(seed + 10 * len(metrics)))
    return Outcome(seed, metrics, {m: metrics[m] + noise[list(FAMILIES).index(m)] for m in metrics})


# Words

SIGNS = ("macro_ap", "half.macro_f1", "tuned.macro_f1", "tail_ap", "tuned.tail_f1", "tuned.micro_f1")


@pytest.mark.parametrize(
    ("signs", "words"),
    [  # ranking, at 0.5, tuned, tail ranking, tail tuned, micro
        ((0, 0, 0, 0, 0, 0), NOTHING),
        ((1, 1, 1, 0, 0, 0), "ranking better"),
        ((1, 0, 0, 0, 0, 0), "ranking better"),
        ((-1, -1, -1, 0, 0, 0), "ranking worse"),
        ((0, 1, 0, 0, 0, 0), THRESHOLD),
        ((0, -1, 0, 0, 0, 0), THRESHOLD),
        ((0, 0, 1, 0, 0, 0), "better with tuned thresholds"),
        ((0, 1, 1, 0, 0, 0), "better with tuned thresholds"),
        ((0, 0, -1, 0, 0, 0), "worse with tuned thresholds"),
        ((0, 1, -1, 0, 0, 0), "worse with tuned thresholds, but better at 0.5"),
        ((1, 1, -1, 0, 0, 0), "ranking better, but worse with tuned thresholds"),
        ((-1, 1, 0, 0, 0, 0), "ranking worse, but better at 0.5"),
        ((-1, 1, 1, 0, 0, 0), "ranking worse, but better with tuned thresholds and at 0.5"),
        ((1, 1, 1, -1, 0, 0), "ranking better, but worse in the tail"),
        ((1, 1, 1, 0, -1, -1), "ranking better, but worse in the tail and in micro-F1"),
        ((1, -1, 0, 1, 0, 0), "ranking better, and better in the tail, but worse at 0.5"),
        ((-1, 0, 0, -1, -1, 0), "ranking worse, and worse in the tail"),
        ((0, 1, 0, -1, 0, 0), "only the threshold moved, but worse in the tail"),
        ((0, 1, 0, 1, 0, -1), "only the threshold moved, but better in the tail and worse in micro-F1"),
        ((0, 0, 0, 0, -1, 0), "worse in the tail"),
        ((0, 0, 0, 1, -1, 0), "worse in the tail"),
        ((0, 0, 0, 1, 0, 0), "better in the tail"),
        ((0, 0, 0, 0, 0, 1), "better in micro-F1"),
        ((0, 0, 1, 0, 0, 1), "better with tuned thresholds"),
        ((None, 1, 0, None, None, None), "better at 0.5"),  # what only moved is not known
        ((0, -1, None, None, None, None), "worse at 0.5"),
        ((0, None, None, None, None, None), NOTHING),
        ((None,) * 6, NOTHING),
    ],
)
def test_words(signs, words):
    assert in_words(dict(zip(SIGNS, signs, strict=True))) == words


def test_every_combination_has_words_that_hide_no_loss():
    for signs in itertools.product((-1, 0, 1), repeat=6):
        words = in_words(dict(zip(SIGNS, signs, strict=True)))
        assert (words == NOTHING) == (not any(signs))
        assert ("worse" in words) == (min(signs) == -1 and not (words.startswith(THRESHOLD) and -1 not in signs[2:]))
        assert not words.startswith((",", "but", "and"))


# Verdicts


def test_only_the_threshold_moved():
    base = sure({"half.macro_f1": 0.239, "tuned.macro_f1": 0.336, "macro_ap": 0.402})
    moved = sure({"half.macro_f1": 0.295, "tuned.macro_f1": 0.336, "macro_ap": 0.402}, seed=0)
    moved.resamples["half.macro_f1"] += 0.0005 * torch.tensor([1.0, -1.0]).repeat(100)  # 1.96 x 0.0005 / 0.239 = 0.41%
    found = verdicts({"cap_7.0_focal_g3": [moved], "no_cap_no_focal": [base]}, "no_cap_no_focal")
    assert list(found) == ["cap_7.0_focal_g3", "no_cap_no_focal"]
    assert found["cap_7.0_focal_g3"].words == f"{THRESHOLD} on these documents"
    assert found["cap_7.0_focal_g3"].sentence == (
        "cap_7.0_focal_g3: only the threshold moved on these documents. Macro-F1 at 0.5 0.295 against 0.239 (+23.4%, "
        "95% interval +23.0 to +23.8%), macro-F1 with tuned thresholds 0.336 against 0.336 (+0.0%, +0.0 to +0.0%), "
        "macro average precision 0.402 against 0.402 (+0.0%, +0.0 to +0.0%). One training per point "
        "cannot show which settings are better."
    )
    assert found["no_cap_no_focal"].words == BASELINE
    assert found["no_cap_no_focal"].sentence == (
        "no_cap_no_focal: the baseline. Macro-F1 at 0.5 0.239, macro-F1 with tuned thresholds 0.336, macro average "
        "precision 0.402."
    )


def test_a_tail_that_differs_is_in_numbers():
    base, worse = outcome(0.0, [0.0, 0.0], metric="tail_ap"), outcome(0.2, [0.19, 0.21], metric="tail_ap")
    found = verdicts({"a": [worse], "b": [base]}, "b")["a"]
    assert found.sentence == (
        "a: higher in the tail on these documents. Average precision in the tail 0.200 against 0.000 "
        "(+0.200, 95% interval +0.172 to +0.228). One training per point cannot show which settings are better."
    )


def errors_above(number: float, metric: str, seeds: int = 2) -> list[Outcome]:
    """Return outcomes that agree from seed to seed, a number of standard errors above 0.4."""
    one = outcome(0.4 + 0.1 * number, [0.5, 0.5 + 0.1 * math.sqrt(2)], metric=metric)
    return [replace(one, seed=seed) for seed in range(seeds)]


def level(metric: str) -> list[Outcome]:
    return [outcome(0.4, [0.4, 0.4], seed, metric) for seed in range(2)]


def test_the_primary_metric_is_corrected_for_the_points():
    base, near = level("tuned.macro_f1"), errors_above(2.1, "tuned.macro_f1")
    assert verdicts({"base": base, "near": near}, "base")["near"].words == "better with tuned thresholds"
    both = verdicts({"base": base, "near": near, "same": base}, "base")["near"]
    assert both.differences["tuned.macro_f1"].adjusted == pytest.approx(2 * 2 * stats.norm.sf(2.1))
    assert both.words == NOTHING
    assert both.sentence.endswith(
        " On its own it would differ significantly in macro-F1 with tuned thresholds; among so many tests this can be "
        "chance."
    )


def merged(*outcomes: list[Outcome]) -> list[Outcome]:
    return [
        Outcome(each[0].seed, *({k: v for one in each for k, v in getattr(one, part).items()} for part in PARTS))
        for each in zip(*outcomes, strict=True)
    ]


PARTS = ("values", "resamples")


def test_other_metrics_are_told_at_a_stricter_level_unless_the_primary_one_differs():
    base = merged(level("tuned.macro_f1"), level("macro_ap"), level("tail_ap"))
    near = errors_above(2.5, "macro_ap")  # p = 0.0124
    for primary, words in ((0, NOTHING), (3, "ranking better")):
        point = merged(errors_above(primary, "tuned.macro_f1"), near, level("tail_ap"))
        found = verdicts({"base": base, "point": point}, "base")["point"]
        assert found.words == words
        p = 2 * 2 * stats.norm.sf(2.5)  # two metrics beside the primary one
        assert found.differences["macro_ap"].adjusted == pytest.approx(p if primary else p * 5)
    far = merged(level("tuned.macro_f1"), errors_above(3, "macro_ap"), level("tail_ap"))  # p = 0.0027
    assert verdicts({"base": base, "point": far}, "base")["point"].words == "ranking better"


def test_a_doubtful_ranking_is_not_only_a_moved_threshold():
    base = merged(level("tuned.macro_f1"), level("macro_ap"), level("half.macro_f1"))
    moved = errors_above(9, "half.macro_f1")
    for ranking, words in ((0, THRESHOLD), (2.1, "better at 0.5")):
        point = merged(level("tuned.macro_f1"), errors_above(ranking, "macro_ap"), moved)
        assert verdicts({"base": base, "point": point}, "base")["point"].words == words


def test_another_metric_may_decide():
    families = LABELS.decided_by("tuned.head_f1")
    base, near = level("tuned.head_f1"), errors_above(2.1, "tuned.head_f1")
    assert verdicts({"base": base, "near": near}, "base", families)["near"].words == "better in tuned.head_f1"
    both = merged(near, errors_above(9, "macro_ap"))
    found = verdicts({"base": merged(base, level("macro_ap")), "near": both}, "base", families)["near"]
    assert found.words == "better in tuned.head_f1; ranking better"
    assert "Tuned.head_f1 0.610 against 0.400" in found.sentence
    again = verdicts({"base": base}, "base", LABELS.decided_by("tuned.macro_f1").decided_by("tuned.head_f1"))["base"]
    assert again.sentence == "base: the baseline. Tuned.head_f1 0.400."


def test_one_training_says_nothing_about_settings():
    for seeds, words in ((1, "higher with tuned thresholds on these documents"), (2, "better with tuned thresholds")):
        points = {"base": level("tuned.macro_f1")[:seeds], "near": errors_above(3, "tuned.macro_f1", seeds)}
        assert verdicts(points, "base")["near"].words == words


def seeds_of(*values: float) -> list[Outcome]:
    return [outcome(value, [value, value], seed, "tuned.macro_f1") for seed, value in enumerate(values)]


def test_earlier_trainings_show_how_much_trainings_vary():
    points = {"base": level("tuned.macro_f1")[:1], "near": errors_above(3, "tuned.macro_f1", 1)}
    found = verdicts(points, "base", earlier=[seeds_of(0.4, 0.41, 0.4, 0.41, 0.4)])["near"]
    assert found.words == "better with tuned thresholds"
    assert found.sentence.endswith(" A point with one training is assumed to vary as much as the other points.")
    assert verdicts(points, "base", earlier=[seeds_of(0.1, 0.9)])["near"].words == NOTHING


def test_models_without_randomness_say_nothing_about_the_others():
    """`popularity` is the same with every seed: a single training beside it remains a single training."""
    points = {"base": level("tuned.macro_f1")[:1], "near": errors_above(3, "tuned.macro_f1", 1)}
    points |= {"popularity": seeds_of(0.2, 0.2, 0.2)}
    assert verdicts(points, "base")["near"].words == "higher with tuned thresholds on these documents"


def test_points_without_a_result():
    base = outcome(0.4, [0.4, 0.5], metric="macro_ap")
    found = verdicts({"base": [base], "failed": [], "other": [outcome(0.4, [0, 1], 5, "recall")]}, "base")
    assert found["failed"].words == found["other"].words == NOT_COMPARED
    assert found["failed"].sentence == "failed: not compared. It has no result, or the baseline has none."
    assert verdicts({"base": []}, "base")["base"].sentence == "base: the baseline. No result."


def test_an_unknown_baseline():
    with pytest.raises(ConfigError, match=r"baseline 'no_cap': no such point\. Did you mean 'no_cap_no_focal'\?"):
        verdicts({"no_cap_no_focal": []}, "no_cap")


@pytest.mark.parametrize(("seeds", "spread", "least"), [(1, 0, 0.015), (3, 0.05, 0.01), (3, 0.3, 0.01), (2, 0.3, 0)])
def test_without_a_difference_one_grid_in_twenty_at_most_says_one(seeds, spread, least):
    """The truth of all five points is the baseline's: documents differ, and with several seeds trainings do too."""
    generator = torch.Generator().manual_seed(1)
    grids, documents, wrong = 250, 200, 0

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    for _ in range(grids):
        weights = torch.poisson(torch.ones(200, documents), generator=generator).double()
        shift = spread * draw(6, seeds, 1)
        scores = 5 + draw(documents) + draw(6, 1, documents) + shift
        resampled = scores @ weights.T / weights.sum(1)
        points = {
            str(point): [
                Outcome(seed, {"macro_ap": scores[point, seed].mean().item()}, {"macro_ap": resampled[point, seed]})
                for seed in range(seeds)
            ]
            for point in range(6)
        }
        found = verdicts(points, "0", LABELS.decided_by("macro_ap"))
        wrong += any("ranking" in verdict.words for verdict in found.values())
    assert least <= wrong / grids <= 0.085  # 5%, and 2.5 standard errors of 250 grids


def test_too_few_documents_show_no_difference():
    base = outcome(0.4, [0.4, 0.4], metric="macro_ap")
    better = outcome(0.6, [0.59, 0.61], metric="macro_ap")
    points = {"base": [base], "better": [better], "failed": []}
    assert verdicts(points, "base")["better"].words == "ranking higher on these documents"
    found = verdicts(points, "base", too_few="too few documents (7) to compare")
    assert found["better"].sentence.startswith(
        "better: too few documents (7) to compare. Macro average precision 0.600"
    )
    assert "can be chance" not in found["better"].sentence
    assert (found["better"].primary, verdicts(points, "base")["better"].primary) == ("", "tuned.macro_f1")
    assert found["better"].differences["macro_ap"].sign == 0
    assert (found["base"].words, found["failed"].words) == (BASELINE, NOT_COMPARED)


# Rankings

RANKING_SIGNS = ("map@3", "recall@10", "tail.map@3")


@pytest.mark.parametrize(
    ("signs", "words"),
    [  # map@3, recall@10, map@3 in the tail
        ((0, 0, 0), NOTHING),
        ((1, 0, 0), "ranking better"),
        ((1, 1, 0), "ranking better"),
        ((-1, -1, 0), "ranking worse"),
        ((1, 0, -1), "ranking better, but worse in the tail"),
        ((1, -1, -1), "ranking better, but worse in recall@10 and in the tail"),
        ((1, -1, 1), "ranking better, and better in the tail, but worse in recall@10"),
        ((-1, 1, 1), "ranking worse, but better in recall@10 and in the tail"),
        ((0, 1, 0), "better in recall@10"),
        ((0, 1, -1), "better in recall@10 and worse in the tail"),
        ((0, None, None), NOTHING),
        ((None, None, None), NOTHING),
    ],
)
def test_words_of_rankings(signs, words):
    assert rankings(3).words(dict(zip(RANKING_SIGNS, signs, strict=True))) == words


def test_every_combination_of_rankings_has_words_that_hide_no_loss():
    for signs in itertools.product((-1, 0, 1), repeat=3):
        words = rankings(3).words(dict(zip(RANKING_SIGNS, signs, strict=True)))
        assert (words == NOTHING) == (not any(signs))
        assert ("worse" in words) == (-1 in signs)


def test_the_families_follow_the_length_of_the_ranking():
    assert list(rankings(5).called) == ["map@5", "recall@10", "tail.map@5"]
    assert list(rankings(10).called) == ["map@10", "recall@10", "tail.map@10"]


def test_a_verdict_on_rankings_in_numbers():
    """Resamples of the two differ by 0.010 -+ 0.001, so the interval is the mean -+ 1.96 sqrt(2) 0.001."""
    both = torch.tensor([0.0, 0.1], dtype=torch.float64)
    base = Outcome(0, {"map@3": 0.05}, {"map@3": both})
    ours = Outcome(0, {"map@3": 0.06}, {"map@3": both + torch.tensor([0.009, 0.011])})
    found = verdicts({"gru softmax": [ours], "gru bce": [base]}, "gru bce", rankings(3))
    assert found["gru softmax"].sentence == (
        "gru softmax: ranking higher on these users. Map@3 0.0600 against 0.0500 (+20.0%, 95% interval +14.5 to "
        "+25.5%). One training per point cannot show which settings are better."
    )
    assert found["gru bce"].words == BASELINE
