import itertools

import pytest
import torch

from hyperfocal.metrics.differences import Outcome
from hyperfocal.metrics.verdict import BASELINE, NOT_COMPARED, NOTHING, rankings, verdicts

SIGNS = ("map@3", "recall@10", "tail.map@3")


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
def test_words(signs, words):
    assert rankings(3).words(dict(zip(SIGNS, signs, strict=True))) == words


def test_every_combination_has_words_that_hide_no_loss():
    for signs in itertools.product((-1, 0, 1), repeat=3):
        words = rankings(3).words(dict(zip(SIGNS, signs, strict=True)))
        assert (words == NOTHING) == (not any(signs))
        assert ("worse" in words) == (-1 in signs)


def test_the_families_follow_the_length_of_the_ranking():
    assert list(rankings(5).called) == ["map@5", "recall@10", "tail.map@5"]
    assert list(rankings(10).called) == ["map@10", "recall@10", "tail.map@10"]


def test_a_verdict_in_numbers():
    """Resamples of the two differ by 0.010 -+ 0.001, so the interval is the mean -+ 1.96 sqrt(2) 0.001."""
    both = torch.tensor([0.0, 0.1], dtype=torch.float64)
    base = Outcome(0, {"map@3": 0.05}, {"map@3": both})
    ours = Outcome(0, {"map@3": 0.06}, {"map@3": both + torch.tensor([0.009, 0.011])})
    found = verdicts({"gru softmax": [ours], "gru bce": [base]}, "gru bce", rankings(3))
    assert found["gru softmax"].sentence == (
        "gru softmax: ranking better. Map@3 0.0600 against 0.0500 (+20.0%, 95% interval +14.5 to +25.5%)."
    )
    assert found["gru bce"].words == BASELINE
