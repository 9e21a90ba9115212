import itertools
import math

import pytest
import torch
from scipy import stats

from hyperfocal.errors import ConfigError
from hyperfocal.metrics.differences import Outcome
from hyperfocal.metrics.verdict import (
    BASELINE,
    FAMILIES,
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
        ((None,) * 6, NOT_COMPARED),
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
    assert found["cap_7.0_focal_g3"].words == THRESHOLD
    assert found["cap_7.0_focal_g3"].sentence == (
        "cap_7.0_focal_g3: only the threshold moved. Macro-F1 at 0.5 0.295 against 0.239 (+23.4%, 95% interval "
        "+23.0 to +23.8%), macro-F1 with tuned thresholds 0.336 against 0.336 (+0.0%, +0.0 to +0.0%), macro average "
        "precision 0.402 against 0.402 (+0.0%, +0.0 to +0.0%)."
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
        "a: better in the tail. Average precision in the tail 0.200 against 0.000 "
        "(+0.200, 95% interval +0.172 to +0.228)."
    )


def test_each_metric_is_corrected_by_itself_and_for_the_points():
    base = outcome(0.4, [0.4, 0.4], metric="macro_ap")
    near = outcome(0.4 + 0.1 * 2.1, [0.5, 0.5 + 0.1 * math.sqrt(2)], metric="macro_ap")  # 2.1 standard errors
    assert verdicts({"base": [base], "near": [near]}, "base")["near"].words == "ranking better"
    both = verdicts({"base": [base], "near": [near], "same": [base]}, "base")
    p = 2 * stats.norm.sf(2.1)
    assert both["near"].differences["macro_ap"].adjusted == pytest.approx(2 * p)
    assert both["near"].words == NOTHING
    assert both["near"].sentence.endswith(
        " On its own it would differ significantly in macro average precision; among 2 points this can be chance."
    )


def test_points_without_a_result():
    base = outcome(0.4, [0.4, 0.5], metric="macro_ap")
    found = verdicts({"base": [base], "failed": [], "other": [outcome(0.4, [0, 1], 5, "macro_ap")]}, "base")
    assert found["failed"].words == found["other"].words == NOT_COMPARED
    assert found["failed"].sentence.startswith("failed: not compared. It has no result with a seed that the baseline")
    assert verdicts({"base": []}, "base")["base"].sentence == "base: the baseline. No result."


def test_an_unknown_baseline():
    with pytest.raises(ConfigError, match=r"baseline 'no_cap': no such point\. Did you mean 'no_cap_no_focal'\?"):
        verdicts({"no_cap_no_focal": []}, "no_cap")


@pytest.mark.parametrize(("seeds", "spread", "least"), [(1, 0, 0.015), (3, 0.05, 0.01), (3, 0.3, 0), (2, 0.3, 0)])
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
        wrong += any("ranking" in verdict.words for verdict in verdicts(points, "0").values())
    assert least <= wrong / grids <= 0.085  # 5%, and 2.5 standard errors of 250 grids


def test_too_few_documents_show_no_difference():
    base = outcome(0.4, [0.4, 0.4], metric="macro_ap")
    better = outcome(0.6, [0.59, 0.61], metric="macro_ap")
    points = {"base": [base], "better": [better], "failed": []}
    assert verdicts(points, "base")["better"].words == "ranking better"
    found = verdicts(points, "base", too_few="too few documents (7) to compare")
    assert found["better"].sentence.startswith(
        "better: too few documents (7) to compare. Macro average precision 0.600"
    )
    assert "can be chance" not in found["better"].sentence
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
        ((None, None, None), NOT_COMPARED),
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
        "gru softmax: ranking better. Map@3 0.0600 against 0.0500 (+20.0%, 95% interval +14.5 to +25.5%)."
    )
    assert found["gru bce"].words == BASELINE
