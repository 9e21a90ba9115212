"""The neighbours of `user_knn` against hand calculations and the formula of their module, written as slow loops."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperfocal.models import user_knn
from hyperfocal.models.baselines import Baseline, fit_baseline
from hyperfocal.models.user_knn import UserNeighbours
from hyperfocal.sequences import Sequences

NUM_ITEMS = 7
quick = settings(deadline=None, max_examples=80)
trained = st.lists(st.lists(st.integers(0, NUM_ITEMS - 2), max_size=8), max_size=7)  # item 6 is never in training
scored = st.lists(st.lists(st.integers(0, NUM_ITEMS - 1), max_size=8), max_size=4)


def build(rows: list[list[int]], num_items: int = NUM_ITEMS) -> Sequences:
    items = torch.tensor([item for row in rows for item in row], dtype=torch.int64)
    return Sequences(items, torch.tensor([0, *map(len, rows)]).cumsum(0), num_items)


def slow(rows: list[list[int]], history: list[int], window: int = 50) -> list[float]:
    """Return one user's scores: all training users are neighbours."""
    age = {item: age for age, item in reversed(list(enumerate(reversed(history)))) if age < window}
    idf = {a: math.log(1 + len(rows) / sum(a in row for row in rows)) for a in age if any(a in row for row in rows)}
    scores = [0.0] * NUM_ITEMS
    for row in rows:
        shared = set(row) & set(age)
        if not shared:
            continue
        similarity = sum(0.8 ** age[a] * idf[a] ** 2 for a in shared)
        newest = min(shared, key=lambda a: age[a])
        last = max(place for place, item in enumerate(row) if item == newest)
        for place, item in enumerate(row):
            scores[item] += similarity**1.5 * (0.8 ** (place - last - 1) if place > last else 0.1)
    return scores


def scores_of(rows: list[list[int]], histories: list[list[int]]) -> list[list[float]]:
    return UserNeighbours.of(build(rows)).scores(build(histories)).tolist()


def test_by_hand():
    """Of four users three share: [0, 1, 2, 3] both, [1, 4] the newer item, [5, 0] the older one."""
    found = scores_of([[0, 1, 2, 3], [1, 4], [5, 0], [5]], [[0, 1]])[0]
    idf = math.log(1 + 4 / 2)  # 0 and 1 have two users each
    both, newer, older = (1.8 * idf**2) ** 1.5, (idf**2) ** 1.5, (0.8 * idf**2) ** 1.5
    assert found == pytest.approx(
        [0.1 * both + 0.1 * older, 0.1 * both + 0.1 * newer, both, 0.8 * both, newer, 0.1 * older, 0], rel=1e-6
    )


def test_votes_begin_after_the_item_that_is_newest_in_the_history():
    """The neighbour took 1, the newest item of the history, before 0: 2 and 0 follow it, 3 is before."""
    found = scores_of([[3, 1, 2, 0]], [[0, 1]])[0]
    similarity = 1.8 * math.log(2) ** 2
    assert found[:4] == pytest.approx([vote * similarity**1.5 for vote in (0.8, 0.1, 1, 0.1)], rel=1e-6)


@quick
@given(trained, scored)
def test_the_formula(rows, histories):
    assert scores_of(rows, histories) == [pytest.approx(slow(rows, history), rel=1e-5) for history in histories]


@quick
@given(trained, scored)
def test_only_the_newest_items_count(rows, histories):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(user_knn, "WINDOW", 2)
        found = scores_of(rows, histories)
    assert found == [pytest.approx(slow(rows, history, window=2), rel=1e-5) for history in histories]


def test_the_most_similar_users_vote_and_of_equal_ones_the_first(monkeypatch):
    rows = [[0, 2], [0, 3], [0, 1, 4], [0, 5], [1, 5]]
    monkeypatch.setattr(user_knn, "NEIGHBOURS", 2)
    found = scores_of(rows, [[1, 0]])[0]
    # [0, 1, 4] shares both; [1, 5] shares the rarer 1, which is older: 0.8 log(1 + 5/2)^2 > log(1 + 5/4)^2
    assert [item for item in range(NUM_ITEMS) if found[item] > 0] == [0, 1, 4, 5]
    found = scores_of(rows, [[0]])[0]  # four equal users
    assert [item for item in range(NUM_ITEMS) if found[item] > 0] == [0, 2, 3]


@pytest.mark.parametrize("block", [1, 2, 5])
def test_blocks_of_users_change_nothing(monkeypatch, block):
    rows, histories = [[0, 1, 2], [2, 1, 0, 3], [4, 0], [1, 4, 5]], [[0, 1], [], [6], [2], [4, 4, 1]]
    whole = scores_of(rows, histories)
    monkeypatch.setattr(user_knn, "BLOCK_USERS", block)
    assert scores_of(rows, histories) == whole
    assert [scores_of(rows, [history])[0] for history in histories] == whole


@pytest.mark.parametrize(
    ("users", "events", "first"), [(4, 99, 0), (2, 99, 2), (4, 5, 2), (4, 6, 1), (3, 3, 3), (4, 1, 4)]
)
def test_memory_is_bounded_to_the_last_users(monkeypatch, users, events, first):
    rows = [[0, 1, 2], [3], [4, 5], [1, 2, 0]]
    monkeypatch.setattr(user_knn, "MOST_USERS", users)
    monkeypatch.setattr(user_knn, "MOST_EVENTS", events)
    neighbours = UserNeighbours.of(build(rows)).sequences
    assert len(neighbours) == len(rows) - first
    assert neighbours.items.tolist() == [item for row in rows[first:] for item in row]
    assert neighbours.items.dtype == torch.int32


def test_a_training_user_votes_for_nothing_that_it_has_not():
    """Its own row ends with its newest item. After a further item, as in a leave-one-out test, nothing new comes."""
    row = [0, 1, 2, 3]
    for history in (row, [*row, 4], [*row, 1]):
        found = scores_of([row], [history])[0]
        assert [item for item in range(NUM_ITEMS) if found[item] > 0 and item not in history] == []


def test_new_items_have_no_votes():
    baseline = fit_baseline("user_knn", build([[0, 1], [1, 2], [0, 2]]))
    histories = [[0], [1], []]
    wider = baseline.widened(NUM_ITEMS + 2).scores(build(histories, NUM_ITEMS + 2))
    assert torch.equal(wider[:, :NUM_ITEMS], baseline.scores(build(histories)))
    assert wider[:, NUM_ITEMS:].tolist() == [[0, 0]] * 3
    with_new = baseline.widened(NUM_ITEMS + 2).scores(build([[0, NUM_ITEMS]], NUM_ITEMS + 2))
    assert (with_new[0, :NUM_ITEMS] > 1e-3).tolist() == [True, True, True, False, False, False, False]


@pytest.mark.parametrize(
    ("name", "place", "value", "words"),
    [("items", 0, 99, "outside"), ("items", 0, -1, "outside"), ("offsets", 1, 99, "fit"), ("offsets", 0, 1, "fit")],
)
def test_users_that_point_outside_are_refused(name, place, value, words):
    tensors = {key: tensor.clone() for key, tensor in fit_baseline("user_knn", build([[0, 1], [2]])).tensors().items()}
    tensors[name][place] = value
    with pytest.raises(ValueError, match=words):
        Baseline.from_tensors("user_knn", tensors)
