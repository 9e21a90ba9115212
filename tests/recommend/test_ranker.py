"""The blend of a network and a baseline: its scores written out, and its weight the best of all."""

import pytest
import torch

from hyperfocal.data.logs import Log
from hyperfocal.labels import SparseLabels
from hyperfocal.metrics.ranking import rank_items, score_ranking
from hyperfocal.recommend.ranker import WEIGHTS, best_weight, blended
from hyperfocal.recommend.recommender import Recommender
from hyperfocal.sequences import Sequences

USERS, ITEMS = 40, 12


@pytest.fixture
def holdout():
    """Return users with one item each, a truth, and two scorers that know half of it each."""
    draw = torch.Generator().manual_seed(0)
    items = torch.randint(0, ITEMS, (USERS,), generator=draw)
    histories = Sequences(items, torch.arange(USERS + 1), ITEMS)
    truth = (items + 1 + torch.randint(0, 3, (USERS,), generator=draw)) % ITEMS

    class Holdout:
        def __len__(self):
            return USERS

    found = Holdout()
    found.histories, found.truth = histories, SparseLabels.from_lists([[t] for t in truth.tolist()], num_labels=ITEMS)

    def network(block):
        return torch.nn.functional.one_hot((block.items + 1) % ITEMS, ITEMS).float() * 3

    def baseline(block):
        return torch.nn.functional.one_hot((block.items + 2) % ITEMS, ITEMS).double() * 5 + 1e-3

    return found, network, baseline


def test_written_out(holdout):
    data, network, baseline = holdout
    found = blended(network, baseline, 0.25)(data.histories)
    expected = 0.75 * network(data.histories).double().softmax(1)
    counted = baseline(data.histories)
    torch.testing.assert_close(found, expected + 0.25 * counted / counted.sum(1, keepdim=True))


@pytest.mark.parametrize("metric", ["map@1", "map@2", "recall@3"])
def test_the_weight_is_the_best_by_ranking_with_each(holdout, metric):
    data, network, baseline = holdout
    depth = int(metric[-1])
    means = []
    for weight in WEIGHTS:
        ranked, _ = rank_items(blended(network, baseline, weight), data.histories, depth)
        means.append(float(score_ranking(ranked, data.truth, [metric])[metric].mean()))
    assert best_weight(network, baseline, data, metric) == WEIGHTS[means.index(max(means))]


@pytest.fixture(scope="module")
def log():
    return Log.from_lists([[f"i{(start + step) % 9}" for step in range(6)] for start in range(9)] * 8)


SETTINGS = {"train.epochs": 2, "train.threads": 1, "model.embedding_width": 8, "loss.name": "softmax"}


@pytest.mark.parametrize("on", [False, True])
def test_a_network_may_rank_by_it(log, on, tmp_path):
    recommender = Recommender(model="gru", history=4, next_items=1, settings=SETTINGS | {"model.blend": on})
    recommender.fit(log, out=tmp_path / "run")
    metrics = recommender.metrics_
    assert metrics["model"] == ("blend" if on else "gru")
    assert metrics["blend"]["with"] == "decayed_markov"  # the linear blend, for exports
    assert metrics["blend"]["weight"] == recommender.blend_weight_
    assert 0 < recommender.blend_weight_ <= 1
    assert ("blend" in metrics["verdict"]["words"]) is on  # validation chose its weight: no verdict on it there
    assert "against" in recommender.evaluate(log)["verdict"]["words"].partition("blend")[2]
    loaded = Recommender.load(tmp_path / "run")
    histories = [["i3"], ["i5", "i6"]]
    assert loaded.recommend(histories, k=3) == recommender.recommend(histories, k=3)
    assert loaded.evaluate(log)["scores"] == recommender.evaluate(log)["scores"]
    if on:
        assert recommender.recommend(histories, k=1) == [["i4"], ["i7"]]


def test_a_baseline_ranks_by_itself(log):
    recommender = Recommender(model="markov", history=2, next_items=1, settings={"model.blend": True}).fit(log)
    assert recommender.metrics_["model"] == "markov"


def test_baselines_have_none(log):
    assert "blend" not in Recommender(model="markov", history=2, next_items=1).fit(log).metrics_["scores"]
