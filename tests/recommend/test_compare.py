import polars as pl
import pytest
import torch

from hyperfocal.data.examples import Holdout
from hyperfocal.labels import SparseLabels
from hyperfocal.recommend.compare import score_point, score_ranker, summarize
from hyperfocal.sequences import Sequences

ITEMS = 12


def holdout(users):
    """Return users whose history is item 0 and whose next item is 1, of every third one 2."""
    histories = Sequences(torch.zeros(users, dtype=torch.int64), torch.arange(users + 1), ITEMS)
    truth = SparseLabels.from_lists([[1 + (user % 3 == 2)] for user in range(users)], num_labels=ITEMS + 1)
    return Holdout(pl.Series([f"u{user}" for user in range(users)]), histories, truth)


def prefers(item):
    """Return a ranker that puts one item first, and item 11 next."""

    def scores(block):
        found = torch.arange(ITEMS, dtype=torch.float32).repeat(len(block), 1)
        found[:, item] = ITEMS
        return found

    return scores


def verdict(users, ours, theirs):
    counts = torch.ones(ITEMS, dtype=torch.int64)
    scorers = {"gru": prefers(ours), "markov": prefers(theirs)}
    scores = {name: score_ranker(scorer, holdout(users), counts, k=1) for name, scorer in scorers.items()}
    return summarize("gru", scores, metric="map@1", users=users)["verdict"]["words"]


@pytest.mark.parametrize("users", [1, 5, 19])
def test_a_handful_of_users_declares_no_winner(users):
    said = verdict(users, 1, 5)  # gru hits all but every third, markov none
    assert said.startswith(f"gru against markov, the best baseline: too few users ({users}) to compare. Map@1 ")
    assert "interval" not in said
    assert "beats" not in said


def test_twenty_users_may():
    assert verdict(20, 1, 5).startswith("gru beats markov, the best baseline: map@1 0.7000 against 0.0000")
    assert verdict(20, 5, 1).startswith("gru loses to markov, the best baseline")
    assert verdict(20, 5, 6).startswith("gru is not shown to differ from markov")


def test_a_difference_without_any_spread_is_no_proof():
    counts, users = torch.ones(ITEMS, dtype=torch.int64), 40
    data = holdout(users)
    always = SparseLabels.from_lists([[1]] * users, num_labels=ITEMS + 1)
    data = Holdout(data.users, data.histories, always)
    scores = {name: score_ranker(prefers(item), data, counts, k=1) for name, item in (("gru", 1), ("markov", 5))}
    said = summarize("gru", scores, metric="map@1", users=users)["verdict"]["words"]
    assert said == (
        "gru is not shown to differ from markov, the best baseline: map@1 1.0000 against 0.0000, a difference of "
        "+1.0000 (the same for every user, which says nothing about chance)."
    )


def test_of_a_tail_that_few_users_meet_a_grid_is_told_no_difference():
    counts = torch.full((ITEMS,), 100)
    counts[2] = 1  # the next item of every third user
    for users, known in ((57, False), (60, True)):  # 19 and 20 of them
        values, resamples = score_point(prefers(2), holdout(users), counts, k=1)
        assert values["tail.map@1"] == 1
        assert bool(resamples["tail.map@1"].isfinite().all()) is known
        assert resamples["map@1"].isfinite().all()
    assert resamples["head.map@1"].isnan().all()
