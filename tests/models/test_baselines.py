"""The baselines against the formula of their module's docstring, written out with dictionaries and loops."""

from collections import Counter, defaultdict

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save

from hyperfocal.errors import ConfigError
from hyperfocal.models import baselines
from hyperfocal.models.baselines import (
    EASE_DEFAULT,
    EASE_ITEMS,
    KINDS,
    POPULARITY_WEIGHT,
    REGULARISATION,
    SHRINK,
    Baseline,
    default_baselines,
    fit_baseline,
)
from hyperfocal.sequences import Sequences

NUM_ITEMS = 6
WINDOWS = {"popularity": 0, "cooccurrence": 10**9, "markov": 1, "decayed_markov": 5, "item_knn": 10**9, "ease": 10**9}
DECAYS = {"popularity": 1, "cooccurrence": 1, "markov": 1, "decayed_markov": 0.5, "item_knn": 0.5, "ease": 0.5}
quick = settings(deadline=None, max_examples=60)
lists = st.lists(st.lists(st.integers(0, NUM_ITEMS - 2), max_size=9), max_size=6)  # item 5 is never in training
histories = st.lists(st.lists(st.integers(0, NUM_ITEMS - 1), max_size=9), max_size=4)
every_name = pytest.mark.parametrize("name", KINDS)
every_formula = pytest.mark.parametrize("name", WINDOWS)  # test_user_knn.py has that of user_knn

Matrix = dict[int, dict[int, float]]


def build(rows: list[list[int]], num_items: int = NUM_ITEMS) -> Sequences:
    items = torch.tensor([item for row in rows for item in row], dtype=torch.int64)
    return Sequences(items, torch.tensor([0, *map(len, rows)]).cumsum(0), num_items)


def transitions(rows: list[list[int]]) -> Matrix:
    """Return P(next item is b | item is a)."""
    counts: dict[int, Counter[int]] = defaultdict(Counter)
    for row in rows:
        for place in range(len(row) - 1):
            counts[row[place]][row[place + 1]] += 1
    return {a: {b: n / sum(following.values()) for b, n in following.items()} for a, following in counts.items()}


def together(rows: list[list[int]]) -> Matrix:
    """Return P(b in a user's items | a in them), for b other than a."""
    users = {a: [set(row) for row in rows if a in row] for row in rows for a in row}
    return {a: {b: sum(b in row for row in own) / len(own) for b in users if b != a} for a, own in users.items()}


def binary(rows: list[list[int]]) -> np.ndarray:
    """Return X: 1 where a user has an item."""
    return np.array([[item in row for item in range(NUM_ITEMS)] for row in rows], dtype=float).reshape(-1, NUM_ITEMS)


def cosines(rows: list[list[int]]) -> Matrix:
    """Return n_ab / (sqrt(n_a n_b) + SHRINK), for b other than a."""
    both = binary(rows).T @ binary(rows)
    n = both.diagonal()
    return {
        a: {b: both[a, b] / ((n[a] * n[b]) ** 0.5 + SHRINK) for b in range(NUM_ITEMS) if b != a}
        for a in range(NUM_ITEMS)
    }


def ease(rows: list[list[int]], regularisation: float = REGULARISATION) -> Matrix:
    """Return the closed form: P = inverse(X'X + regularisation I); -P[a, b] / P[b, b], for b other than a."""
    p = np.linalg.inv(binary(rows).T @ binary(rows) + regularisation * np.eye(NUM_ITEMS))
    return {a: {b: -p[a, b] / p[b, b] for b in range(NUM_ITEMS) if b != a} for a in range(NUM_ITEMS)}


MATRICES = {"cooccurrence": together, "item_knn": cosines, "ease": ease}


def oracle(name: str, rows: list[list[int]], history: list[int]) -> list[float]:
    """Return one user's scores."""
    matrix = MATRICES.get(name, transitions)(rows)
    events = [item for row in rows for item in row]
    scores = [POPULARITY_WEIGHT * events.count(b) / max(len(events), 1) for b in range(NUM_ITEMS)]
    for age, a in enumerate(reversed(history)):
        if age < WINDOWS[name]:
            for b in range(NUM_ITEMS):
                scores[b] += DECAYS[name] ** age * matrix.get(a, {}).get(b, 0)
    return scores


@every_formula
@quick
@given(lists, histories)
def test_the_formula(name, rows, users):
    scores = fit_baseline(name, build(rows)).scores(build(users))
    expected = torch.tensor([oracle(name, rows, history) for history in users], dtype=torch.float64)
    assert scores.shape == (len(users), NUM_ITEMS)
    torch.testing.assert_close(scores, expected.reshape(-1, NUM_ITEMS), atol=1e-6, rtol=1e-6)


def test_by_hand():
    rows, user = build([[0, 1, 2], [0, 1, 3], [0, 2]]), build([[0, 1]])
    shares = torch.tensor([3, 2, 2, 1, 0, 0], dtype=torch.float64) / 8 * 1e-6
    expected = {
        "popularity": [0, 0, 0, 0, 0, 0],
        "markov": [0, 0, 1 / 2, 1 / 2, 0, 0],  # after 1: once 2, once 3
        "decayed_markov": [0, 1 / 2 * 2 / 3, 1 / 2 + 1 / 2 * 1 / 3, 1 / 2, 0, 0],  # after 0: twice 1, once 2
        "cooccurrence": [1, 2 / 3, 2 / 3 + 1 / 2, 1 / 3 + 1 / 2, 0, 0],  # with 0: 1, 2, 3; with 1: 0, 2, 3
        "item_knn": [  # 0, 1, 2, 3 have 3, 2, 2, 1 users; the older 0 counts half
            2 / (6**0.5 + 50),
            1 / 2 * 2 / (6**0.5 + 50),
            1 / 2 * 2 / (6**0.5 + 50) + 1 / (2 + 50),
            1 / 2 * 1 / (3**0.5 + 50) + 1 / (2**0.5 + 50),
            0,
            0,
        ],
    }
    for name, values in expected.items():
        scores = fit_baseline(name, rows).scores(user)
        torch.testing.assert_close(scores[0], torch.tensor(values, dtype=torch.float64) + shares, atol=1e-7, rtol=0)


@pytest.mark.parametrize("name", ["markov", "decayed_markov"])
def test_popularity_breaks_ties_however_small_the_share(name):
    rows = [[0, 1], [0, 2], [0, 3], [3]] + [[4, 4]] * 500_000  # 1, 2 and 3 follow 0 as often; 3 is met once more
    scores = fit_baseline(name, build(rows)).scores(build([[0]]))[0]
    assert scores[3] > scores[1] == scores[2]


@every_name
def test_an_empty_or_unknown_history_gets_the_most_popular(name):
    baseline = fit_baseline(name, build([[2, 1], [2, 0], [1, 2]]))
    scores = baseline.scores(build([[], [5]]))  # 5 was never seen
    assert scores.argsort(descending=True, stable=True)[:, :3].tolist() == [[2, 1, 0]] * 2
    assert (scores < 1e-6).all()


@every_formula
@pytest.mark.parametrize("rows", [[], [[]], [[1]]])
def test_next_to_nothing_to_learn_from(name, rows):
    scores = fit_baseline(name, build(rows)).scores(build([[1, 2]]))
    assert scores.tolist() == [oracle(name, rows, [1, 2])]


@every_name
def test_nobody_to_score(name):
    assert fit_baseline(name, build([[1, 2]])).scores(build([])).shape == (0, NUM_ITEMS)


def test_a_user_ends_where_the_next_begins():
    assert fit_baseline("markov", build([[0, 1], [2, 3]])).scores(build([[1]])).max() < 1e-6


def test_the_window_counts_the_newest():
    rows, old = build([[0, 1]]), [0, 5, 5, 5, 5, 5]  # 0 is the sixth newest
    assert fit_baseline("decayed_markov", rows).scores(build([old]))[0, 1] < 1e-6
    newer = fit_baseline("decayed_markov", rows).scores(build([old[:5]]))[0, 1]
    assert newer == pytest.approx(0.5**4, abs=1e-6)


def test_repeats_in_a_history_add_up():
    scores = fit_baseline("decayed_markov", build([[0, 1]])).scores(build([[0, 0]]))
    assert scores[0, 1] == pytest.approx(1 + 1 / 2, abs=1e-6)


def test_only_the_strongest_neighbours_are_kept(monkeypatch):
    monkeypatch.setattr(baselines, "NEIGHBOURS", 2)
    baseline = fit_baseline("markov", build([[0, 3], [0, 3], [0, 4], [0, 2], [0, 1], [0, 1], [0, 1], [2, 3]]))
    scores = baseline.scores(build([[0], [2]]))
    assert (scores[0] > 1e-5).nonzero().flatten().tolist() == [1, 3]
    assert scores[0, 1] == pytest.approx(3 / 7, abs=1e-6)  # shares of all, not of the kept
    assert scores[1, 3] == pytest.approx(1, abs=1e-6)  # each row keeps its own


def test_ease_of_two_items_by_hand():
    """Users of both, of 0 alone and of 1 alone: the inverse of [[2 + l, 1], [1, 2 + l]] is [[2 + l, -1], ...] / det."""
    scores = fit_baseline("ease", build([[0, 1], [0], [1]], num_items=2)).scores(build([[0]], num_items=2))
    assert scores[0, 1] == pytest.approx(1 / (2 + REGULARISATION), abs=1e-6)


@quick
@given(lists, st.sampled_from([0.5, 3.0, 200.0]))
def test_ease_is_the_best_ridge_regression_on_the_other_items(rows, regularisation):
    """Where |X - XB|^2 + l |B|^2 is least over B with a zero diagonal, its gradient is 0 off the diagonal."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(baselines, "REGULARISATION", regularisation)
        matrix = fit_baseline("ease", build(rows)).matrix
    assert matrix is not None
    x, b = binary(rows), matrix.toarray().astype(float)
    gradient = x.T @ (x @ b - x) + regularisation * b
    assert np.diag(b).tolist() == [0] * NUM_ITEMS
    np.testing.assert_allclose(gradient - np.diag(gradient.diagonal()), 0, atol=1e-5)


def test_ease_keeps_strong_negative_weights(monkeypatch):
    """Everybody has 3, and nobody has 0 and 2: 0 speaks against 2."""
    rows = [[0, 1, 3]] * 4 + [[0, 3]] + [[2, 3]] * 3 + [[3, 4]]
    monkeypatch.setattr(baselines, "REGULARISATION", 1.0)
    monkeypatch.setattr(baselines, "NEIGHBOURS", 3)
    matrix = fit_baseline("ease", build(rows)).matrix
    assert matrix is not None
    expected = ease(rows, 1.0)
    for a in range(5):
        kept = sorted(expected[a], key=lambda b, a=a: -abs(expected[a][b]))[:3]
        found = {int(b): matrix[a, b] for b in matrix[[a]].tocoo().coords[1]}
        assert found == pytest.approx({b: expected[a][b] for b in kept}, abs=1e-6)
    assert matrix[0, 2] < -0.1


def test_ease_in_double_precision_where_the_counts_ask_for_it(monkeypatch):
    rows = build([[0, 1, 2], [0, 1], [4, 2]])
    single = fit_baseline("ease", rows).matrix
    monkeypatch.setattr(baselines, "FLOAT32_CONDITION", 0.0)
    double = fit_baseline("ease", rows).matrix
    assert single is not None
    assert double is not None
    np.testing.assert_allclose(double.toarray(), single.toarray(), atol=1e-6)


def test_ease_is_left_out_and_refused_by_size():
    assert default_baselines(EASE_DEFAULT) == list(KINDS)
    assert default_baselines(EASE_DEFAULT + 1) == [name for name in KINDS if name != "ease"]
    with pytest.raises(ConfigError, match=r"ease over 20,001 items .* Expected at most 20,000 items\. Choose item_knn"):
        fit_baseline("ease", build([[0, 1]], num_items=EASE_ITEMS + 1))


@every_formula
def test_a_catalogue_of_one_item(name):
    scores = fit_baseline(name, build([[0], [0, 0]], num_items=1)).scores(build([[0], []], num_items=1))
    assert scores[1].tolist() == [1e-6]
    assert scores[0].tolist() == [pytest.approx(1 if "markov" in name else 0, abs=1e-5)]


@pytest.mark.parametrize("name", ["cooccurrence", "item_knn", "ease"])
@pytest.mark.parametrize("block", [1, 7, 12, 10**6])
@pytest.mark.parametrize("neighbours", [2, 500])
def test_users_are_counted_in_blocks_of_rows(monkeypatch, name, block, neighbours):
    rows = build([[0, 1, 2, 5], [0, 1], [4], [2, 1], [4, 0, 4], [5, 3]])
    monkeypatch.setattr(baselines, "NEIGHBOURS", neighbours)
    whole = fit_baseline(name, rows).matrix
    monkeypatch.setattr(baselines, "BLOCK_NUMBERS", block)
    parts = fit_baseline(name, rows).matrix
    assert whole is not None
    assert parts is not None
    assert parts.toarray().tolist() == whole.toarray().tolist()


@every_name
@quick
@given(lists)
def test_tensors_round_trip(name, rows):
    baseline = fit_baseline(name, build(rows))
    again = Baseline.from_tensors(name, load(save(baseline.tensors())))
    users = build([[0, 1, 2], [], [3]])
    assert torch.equal(again.scores(users), baseline.scores(users))
    assert again.kind == baseline.kind == KINDS[name]
    assert torch.equal(again.counts, torch.bincount(build(rows).items, minlength=NUM_ITEMS))


@every_name
def test_scores_are_the_callers(name):
    baseline, users = fit_baseline(name, build([[0, 1]])), build([[0], [1]])
    before, scores = baseline.scores(users), baseline.scores(users)
    scores[0, 1] = 7
    assert torch.equal(scores[1], before[1])  # rows do not share memory
    assert torch.equal(baseline.scores(users), before)


@pytest.mark.parametrize(("part", "place", "value"), [("indices", 0, 99), ("indices", 0, -1), ("indptr", 1, 99)])
def test_a_matrix_that_points_outside_is_refused(part, place, value):
    """The products of sparse matrices would read memory there."""
    baseline = fit_baseline("markov", Sequences(torch.tensor([0, 1, 2, 0]), torch.tensor([0, 4]), 3))
    tensors = {name: tensor.clone() for name, tensor in baseline.tensors().items()}
    tensors[part][place] = value
    with pytest.raises(ValueError, match="ind"):
        Baseline.from_tensors("markov", tensors)
