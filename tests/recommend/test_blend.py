"""The blend in logarithms: scores written out, weights against a search of every grid point, and its honest row."""

import itertools
import math

import pytest
import torch

from hyperfocal.data.examples import Holdout
from hyperfocal.data.logs import Log
from hyperfocal.errors import RunError
from hyperfocal.labels import SparseLabels
from hyperfocal.metrics.intervals import Interval
from hyperfocal.metrics.ranking import rank_items, score_ranking
from hyperfocal.recommend import blend
from hyperfocal.recommend.blend import EPS, NETWORK, WEIGHTS, Blend, blend_scorer, choose, log_shares
from hyperfocal.recommend.compare import Scores, _rank_cross_fitted, best_row
from hyperfocal.recommend.recommender import Recommender
from hyperfocal.recommend.terminal import hint_lines
from hyperfocal.sequences import Sequences
from hyperfocal.storage.run_folder import RunFolder

USERS, ITEMS = 60, 12


@pytest.fixture
def holdout():
    """Return users with one item each; the true one is 1 to 3 further, which three scorers know in part."""
    draw = torch.Generator().manual_seed(0)
    items = torch.randint(0, ITEMS, (USERS,), generator=draw)
    truth = (items + 1 + torch.randint(0, 3, (USERS,), generator=draw)) % ITEMS
    histories = Sequences(items, torch.arange(USERS + 1), ITEMS)
    labels = SparseLabels.from_lists([[item] for item in truth.tolist()], num_labels=ITEMS)
    users = Log.from_lists([["x"]] * USERS).users
    return Holdout(users, histories, labels)


def steps(step, scale):
    """Return a scorer that is sure of one item and leans to a pseudo-random other."""

    def score(block):
        hot = torch.nn.functional.one_hot((block.items + step) % ITEMS, ITEMS).double()
        return hot * scale + torch.nn.functional.one_hot(block.items * 5 % ITEMS, ITEMS) * scale / 2 + 1e-3

    return score


SCORERS = {NETWORK: steps(1, 3), "markov": steps(2, 5), "user_knn": steps(3, 1)}


def test_written_out():
    histories = Sequences(torch.tensor([0]), torch.tensor([0, 1]), 3)
    scorers = {
        NETWORK: lambda block: torch.tensor([[math.log(1), math.log(2), math.log(5)]]),
        "markov": lambda block: torch.tensor([[3.0, 1.0, -7.0]]),  # ease may be negative
        "user_knn": lambda block: torch.zeros(1, 3),
    }
    found = blend_scorer({NETWORK: 1.0, "markov": 0.5, "user_knn": 2.0}, scorers)(histories)[0]
    nothing = 2 * math.log(EPS)
    expected = [
        math.log(1 / 8) + 0.5 * math.log(3 / 4 + EPS) + nothing,
        math.log(2 / 8) + 0.5 * math.log(1 / 4 + EPS) + nothing,
        math.log(5 / 8) + 0.5 * math.log(EPS) + nothing,
    ]
    assert found.tolist() == pytest.approx(expected, rel=1e-6)
    assert found.argmax() == 1


def test_new_items_get_the_mean_of_the_others():
    histories = Sequences(torch.tensor([0]), torch.tensor([0, 1]), 3)
    scorers = {
        NETWORK: lambda block: torch.tensor([[math.log(1), math.log(3), math.log(4)]]),
        "markov": lambda block: torch.tensor([[4.0, 1.0, 0.0]]),
    }
    found = blend_scorer({NETWORK: 1.0, "markov": 0.5}, scorers, new_items=1)(histories)[0]
    mean = 1 / 4 * math.log(4 / 5 + EPS) + 3 / 4 * math.log(1 / 5 + EPS)  # the network has 1 : 3 for the known items
    assert found[2] == pytest.approx(math.log(4 / 8) + 0.5 * mean)
    assert found[0] == pytest.approx(math.log(1 / 8) + 0.5 * math.log(4 / 5 + EPS))


@pytest.mark.parametrize("metric", ["map@1", "map@2", "ndcg@3"])
@pytest.mark.parametrize("pool", [3, ITEMS])
def test_no_single_change_improves_the_weights(holdout, metric, pool, monkeypatch):
    """The reference ranks all items by the blend's own scorer."""
    monkeypatch.setattr(blend, "POOL", pool)

    def values(weights):
        ranked, _ = rank_items(blend_scorer(weights, SCORERS), holdout.histories, int(metric[-1]))
        return score_ranking(ranked, holdout.truth, [metric])[metric]

    chosen = dict(choose(SCORERS, holdout, metric).weights)
    best = values(chosen)
    assert best.mean() >= max(values({name: 1.0}).mean() for name in SCORERS)
    start = NETWORK if NETWORK in chosen else next(name for name, weight in chosen.items() if weight == 1)
    for name, weight in itertools.product(SCORERS.keys() - {start, NETWORK}, WEIGHTS):
        gains = values({key: value for key, value in (chosen | {name: weight}).items() if value}) - best
        assert gains.mean() <= gains.std() / USERS**0.5 + 1e-12


def test_a_useless_network_is_left_out(holdout):
    scorers = SCORERS | {NETWORK: lambda block: -10 * SCORERS["markov"](block)}
    weights = choose(scorers, holdout, "map@2").weights
    assert NETWORK not in weights
    assert max(weights.values()) >= 1


def test_each_half_is_chosen_without_the_users_that_it_scores(holdout):
    """Other truth of the users at even places changes the weights that score those at odd places, and only these."""
    before = choose(SCORERS, holdout, "map@2")
    truth = [row.tolist() for row in holdout.truth.indices.split(1)]
    for user in range(0, USERS, 2):
        truth[user] = [(int(holdout.histories.items[user]) + 3) % ITEMS]
    changed = Holdout(holdout.users, holdout.histories, SparseLabels.from_lists(truth, num_labels=ITEMS))
    after = choose(SCORERS, changed, "map@2")
    assert after.halves[0] == before.halves[0]
    assert after.halves[1] != before.halves[1]


SETTINGS = {"train.epochs": 2, "train.threads": 1, "model.embedding_width": 8, "model.blend": True}


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """Return a recommender that ranks by a blend, and its folder."""
    log = Log.from_lists([[f"i{(start + step) % 9}" for step in range(6)] for start in range(9)] * 8)
    folder = tmp_path_factory.mktemp("blend") / "run"
    return Recommender(model="gru", history=4, next_items=1, settings=SETTINGS).fit(log, out=folder), folder


def test_a_run_keeps_the_weights(fitted):
    recommender, folder = fitted
    weights = recommender.ranker_.blend.weights
    assert recommender.metrics_["blend"]["weights"] == weights
    loaded = Recommender.load(folder)
    assert loaded.ranker_.blend == Blend(weights)
    assert loaded.recommend([["i3"], ["i5", "i6"]], k=3) == recommender.recommend([["i3"], ["i5", "i6"]], k=3)


@pytest.mark.parametrize("weights", [{"nobody": 1.0}, {}, {NETWORK: -1.0}, {NETWORK: "x"}, {NETWORK: 1, "ease": 1e999}])
def test_damaged_weights_are_refused(fitted, weights, monkeypatch):
    metrics = RunFolder.open(fitted[1]).read_json("metrics.json")
    metrics["blend"]["weights"] = weights
    read = RunFolder.read_json
    monkeypatch.setattr(
        RunFolder, "read_json", lambda run, name: metrics if name == "metrics.json" else read(run, name)
    )
    with pytest.raises(RunError, match=r"metrics\.json"):
        Recommender.load(fitted[1])


def test_the_row_of_the_blend_is_cross_fitted(fitted):
    """Users at even places are ranked by the first weights, those at odd places by the second."""
    ranker = fitted[0].ranker_
    halves = ({NETWORK: 1.0}, {"user_knn": 1.0})
    histories = Sequences(torch.tensor([0, 1, 2, 3, 4]), torch.arange(6), 9)
    object.__setattr__(ranker.blend, "halves", halves)
    found = _rank_cross_fitted(ranker, histories, 3).items
    by_half = [rank_items(blend_scorer(each, ranker.blend_parts()), histories, 3)[0] for each in halves]
    assert found.tolist() == [by_half[user % 2][user].tolist() for user in range(5)]


def test_shares_of_nothing_are_finite():
    assert log_shares("markov", torch.zeros(1, 2)).tolist() == [[math.log(EPS)] * 2]


def test_auto_ranks_by_the_best_row(fitted, tmp_path):
    log = Log.from_lists([[f"i{(start + step) % 9}" for step in range(6)] for start in range(9)] * 8)
    recommender = Recommender(model="gru", history=4, next_items=1, settings=SETTINGS | {"model.blend": "auto"})
    recommender.fit(log, out=tmp_path / "run")
    metrics = recommender.metrics_
    means = {name: row["map@1"]["mean"] for name, row in metrics["scores"].items()}
    assert means["markov"] == max(means.values()) == 1  # a circle: who comes next is certain
    assert metrics["model"] == recommender.ranker_.name == "markov"  # the simplest of the best rows
    assert metrics["chosen"] == "validation"
    loaded = Recommender.load(tmp_path / "run")
    expected = Recommender(model="markov", history=4, next_items=1).fit(log).recommend([["i3"], ["i5", "i6"]], k=3)
    assert loaded.recommend([["i3"], ["i5", "i6"]], k=3) == expected
    assert loaded.evaluate(log)["model"] == "markov"


def score(mean):
    return Scores({"map@3": Interval(mean, mean, mean)}, {}, 1.0, {})


@pytest.mark.parametrize(
    ("means", "best"),
    [
        ({"gru": 0.3, "blend": 0.3, "popularity": 0.1, "markov": 0.3, "ease": 0.3}, "markov"),
        ({"gru": 0.3, "blend": 0.3, "markov": 0.2}, "gru"),
        ({"gru": 0.3, "blend": 0.31, "markov": 0.2}, "blend"),
    ],
)
def test_of_equal_rows_the_simplest_is_best(means, best):
    assert best_row({name: score(mean) for name, mean in means.items()}, "ndcg@10", "map@3") == best


@pytest.mark.parametrize(
    ("epoch", "epochs", "users", "network", "words"),
    [
        (8, 8, 500, 0.3, ["Train longer"]),
        (1, 8, 500, 0.3, ["overfits"]),
        (1, 1, 500, 0.3, ["Train longer"]),
        (4, 8, 500, 0.1, ["below markov"]),
        (4, 8, 199, 0.3, ["199 validation users"]),
        (4, 8, 500, 0.3, []),
        (0, 0, 500, 0.1, []),
    ],
)
def test_hints(epoch, epochs, users, network, words):
    rows = {"gru": network, "blend": 0.4, "popularity": 0.05, "markov": 0.2}
    scores = {name: {"map@3": {"mean": mean}} for name, mean in rows.items()}
    lines = hint_lines({"metric": "map@3", "users": users, "scores": scores}, epoch, epochs)
    assert [any(word in line for line in lines) for word in words] == [True] * len(words)
    assert len(lines) == len(words)
