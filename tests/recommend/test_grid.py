"""The grid of `recommend`: how its points are named and known, what they share, and what is kept of them."""

import hashlib
import json
import math

import msgspec
import polars as pl
import pytest
import torch

import grid_cases
from hyperfocal.config.recipes import flatten
from hyperfocal.config.recommend import COUNTING, RecommendSettings
from hyperfocal.errors import ConfigError, DataError, LeakError, RunError
from hyperfocal.grid.adaptive import check_ranges
from hyperfocal.grid.axes import expand
from hyperfocal.grid.points import Point, normalised
from hyperfocal.grid.search import run_grid, run_search
from hyperfocal.grid.winner import keep_winner, score_test
from hyperfocal.models.baselines import KINDS
from hyperfocal.recommend.grid import RANGES
from hyperfocal.recommend.recommender import Recommender
from log_cases import ITEMS, TINY, job, log, points, settings


def key(**changes) -> str:
    return Point("any", 0, settings(**changes)).key("d")


# Keys and names


def test_the_key_is_the_checksum_of_sorted_json():
    chosen = settings(loss__name="focal")
    flat = flatten(msgspec.to_builtins(normalised(chosen)))
    for left_out in ("seed", "data.stream", "train.threads", "train.checkpoint_seconds"):
        del flat[left_out]
    text = json.dumps({"data": "d", "seed": 3, "settings": flat}, sort_keys=True)
    assert Point("any", 3, chosen).key("d") == hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize(
    ("of", "changes"),
    [
        ({"loss__name": "softmax"}, {"loss__gamma": 1, "loss__alpha": 0.5, "loss__negatives": 9}),
        ({"loss__name": "focal"}, {"loss__negatives": 9, "train__momentum": 0.1, "train__threads": 2}),
        ({"loss__name": "asymmetric"}, {"loss__alpha": 0.5}),
        ({"loss__name": "gbce"}, {"loss__gamma": 1}),
        ({"model__name": "mean"}, {"model__layers": 3, "model__heads": 1, "model__dropout": 0.5}),
        ({"model__name": "gru"}, {"model__positions": "none", "model__feed_forward": 2, "model__decay": 0.5}),
        ({"model__name": "transformer"}, {"model__hidden_widths": [3], "data__examples": "last"}),
        ({"model__name": "concat_mlp"}, {"model__layers": 3, "model__decay": 0.5, "data__ahead": 2}),
        ({"model__name": "markov"}, {"loss__name": "softmax", "train__epochs": 7, "model__embedding_width": 9}),
        ({"loss__name": "bce"}, {"loss__name": "focal", "loss__gamma": 0, "loss__alpha": "none"}),
    ],
)
def test_what_is_not_read_changes_no_key(of, changes):
    assert key(**of) == key(**(of | changes))


@pytest.mark.parametrize(
    ("of", "changes"),
    [
        ({"loss__name": "focal"}, {"loss__gamma": 1}),
        ({"loss__name": "focal"}, {"loss__alpha": "none"}),
        ({"loss__name": "sampled_softmax"}, {"loss__negatives": 9}),
        ({"loss__name": "softmax"}, {"loss__prior": 0.5}),
        ({"model__name": "mean"}, {"model__decay": 0.5}),
        ({"model__name": "gru"}, {"model__layers": 3}),
        ({"model__name": "transformer"}, {"model__heads": 1}),
        ({"model__name": "concat_mlp"}, {"model__hidden_widths": [3]}),
        ({"model__name": "markov"}, {"model__name": "decayed_markov"}),
        ({"model__name": "markov"}, {"data__next": 1}),
        ({}, {"train__minutes": 1}),
    ],
)
def test_what_is_read_changes_the_key(of, changes):
    assert key(**of) != key(**(of | changes))


def test_the_counting_models_are_the_baselines():
    assert set(COUNTING) == KINDS.keys()


def test_names_leave_out_what_a_point_does_not_read():
    grid = points("gru", "markov", losses=("softmax", "focal"), loss__gamma=[0, 2.0])
    assert [point.name for point in grid] == [
        "gru softmax", "gru focal loss.gamma=0", "gru focal loss.gamma=2", "markov",
    ]  # fmt: skip
    assert [point.name for point in points("gru", model__layers=[1, 2], seeds=2)] == [
        "gru bce model.layers=1", "gru bce model.layers=1", "gru bce model.layers=2", "gru bce model.layers=2",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ({}, "grid: an empty grid. Give a setting and its values"),
        ({"model.name": ["gru", "gru"], "loss.name": ["bce", "focal"]}, "'gru': the same point named twice"),
        ({"model.name": ["gru"], "model.decay": [0.5, 0.6]}, "'gru model.decay=0.5' and 'gru model.decay=0.6' train"),
        ({"model.name": ["markov"], "train.epochs": [1, 2]}, "train the same"),
        ({"model.name": ["grru"]}, "grid: model.name = 'grru' is not allowed. Expected one of transformer, gru"),
        ({"data.history": [2, 3]}, "data.history cannot vary: points are compared on the same users. To vary the seed"),
        ({"items.features": [["a"], ["b"]]}, "items.features cannot vary"),
        (
            {"caps": [7], "gammas": [2]},
            "unknown key 'caps'. Did you mean 'loss.cap'? Allowed: seeds, baseline, and settings such as loss.gamma",
        ),
        ({"head.width": [7]}, "unknown key 'head'"),
    ],
)
def test_a_grid_that_is_refused(axes, message):
    with pytest.raises(ConfigError) as caught:
        expand(RecommendSettings(), axes, seeds=1)
    assert message in str(caught.value)


# What points share


def prepared(folder, grid, **changes):
    return job(folder, **changes).prepare(grid)[0]


def test_encoders_of_any_history_score_short_users(tmp_path):
    """40 users, 10 of them with 3 items; 0.3 of all validate, of which some are short."""
    material = prepared(tmp_path, points("gru", "mean", "markov"))
    assert material.data.counts["valid"]["users"] == 12
    assert int(material.data.valid.histories.lengths.min()) == 1  # 3 items, of which 2 are the truth


def test_beside_full_histories_all_points_have_the_same_users(tmp_path):
    grid = points("gru", "concat_mlp", "markov")
    material = prepared(tmp_path, grid)
    assert int(material.data.valid.histories.lengths.min()) >= 4
    reached = [material.train(point) for point in grid]
    assert {tuple(values) for values, _ in reached} == {tuple(reached[0][0])}
    assert {tuple(resamples) for _, resamples in reached} == {
        ("map@2", "recall@10", "head.map@2", "medium.map@2", "tail.map@2")
    }
    assert {len(each) for _, resamples in reached for each in resamples.values()} == {1_000}


def test_points_learn_from_a_table_of_items(tmp_path):
    table = pl.DataFrame({"item": [f"i{n}" for n in range(ITEMS)], "third": [f"t{n % 3}" for n in range(ITEMS)]})
    result = run_grid(
        job(tmp_path, items=table), points("gru", "markov", items__drop=[0.0, 0.4]), "gru bce items.drop=0"
    )
    assert list(result.results) == ["gru bce items.drop=0", "gru bce items.drop=0.4", "markov"]
    kept = keep_winner(result, tmp_path / "grid")["baseline"]
    assert [column.name for column in kept.columns_] == ["third"]
    assert (
        kept.with_new_items(pl.DataFrame({"item": ["new"], "third": ["t1"]})).recommend([["i1"]], k=13)[0].count("new")
    )


def test_settings_of_items_want_a_table(tmp_path):
    with pytest.raises(ConfigError, match="there is no table of items"):
        run_grid(job(tmp_path), points("gru", items__drop=[0.0, 0.4]), "gru bce items.drop=0")


def test_a_search_over_rankers(tmp_path):
    check_ranges(RANGES, RecommendSettings())
    ranges = {"loss.name": ["softmax", "bce"], "loss.tau": {"low": 0.0, "high": 1.0}}
    result = run_search(job(tmp_path, base=settings(model__name="mean")), ranges, 3)
    names = list(result.results)
    assert names[0] == "baseline"
    assert len(names) >= 3
    assert result.winner == max(names, key=lambda name: result.results[name][0].values["map@2"])


@pytest.mark.parametrize("name", ["transformer", "concat_mlp", "markov"])
def test_a_point_reaches_what_the_same_fit_does(tmp_path, name):
    """And its resamples are those of the intervals: half of them lie below the median, around the mean."""
    (point,) = points(name, seeds=1)
    values, resamples = prepared(tmp_path, [point]).train(point)
    fitted = Recommender(settings=TINY | {"model.name": name, "loss.name": "bce", "train.threads": 1}).fit(log())
    scores = fitted.metrics_["scores"][name]
    assert values["map@2"] == pytest.approx(scores["map@2"]["mean"])
    assert values["ndcg@2"] == pytest.approx(scores["ndcg@2"]["mean"])
    assert values["tail.map@2"] == pytest.approx(scores["tail"]["map@2"]["mean"])
    assert math.isnan(values["head.map@2"])
    assert scores["head"]["map@2"]["mean"] is None
    ends = resamples["map@2"].quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    assert ends == pytest.approx([scores["map@2"]["low"], scores["map@2"]["high"]])


def test_the_log_is_the_fingerprint(tmp_path):
    grid = points("gru")
    known = prepared(tmp_path, grid).fingerprint()
    again = prepared(tmp_path / "b", points("mean"), base=settings(train__epochs=5))
    assert again.fingerprint() == known
    assert prepared(tmp_path / "c", grid, train=log(41)).fingerprint() != known
    assert prepared(tmp_path / "d", grid, base=settings(seed=1)).fingerprint() != known


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"test_truth": log(name="t")}, ConfigError, "give --test too"),
        ({"valid_truth": log(name="v")}, ConfigError, "give `valid=` too"),
        ({"test": log(3)}, LeakError, "3 of its 3 users are in training or validation too, first 'user0'"),
        ({"valid": log(9, name="v"), "test": log(2, name="v")}, LeakError, "test log: 2 of its 2 users"),
        ({"valid": log(3)}, LeakError, "3 of its 3 users are in training too"),
        ({"test": "no.csv"}, DataError, "no.csv"),
        ({"test": log(4, name="t").filter(log(4)["user"] == "user0")[:1]}, DataError, "no user can be scored"),
        ({"base": settings(data__stream="on")}, ConfigError, "data.stream = 'on' is not allowed in a grid"),
        ({"by": "tail.map@3"}, ConfigError, "Did you mean 'tail.map@2'?"),
        ({"by": "coverage"}, ConfigError, "no metric that chooses a winner"),
    ],
)
def test_what_is_refused_before_anything_is_written(tmp_path, given, error, message):
    with pytest.raises(error) as caught:
        run_grid(job(tmp_path, **given), points("gru"), "gru bce")
    assert message in str(caught.value)
    assert not list(tmp_path.iterdir())


# From the log to the winner

GRID = [*points("gru", "markov"), Point("fails", 0, settings(model__name="transformer", model__heads=3))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("ranking")


@pytest.fixture(scope="module")
def found(folder):
    return run_grid(job(folder), GRID, "gru bce")


def test_a_grid_from_the_log_to_the_winner(found):
    assert list(found.results) == ["gru bce", "markov"]
    assert [each.error for each in found.failed] == [
        "ConfigError: model.embedding_width = 8 is not allowed with model.heads = 3. Expected a multiple of 6, twice "
        "the heads"
    ]
    reached = {name: rows[0].values["map@2"] for name, rows in found.results.items()}
    assert reached[found.winner] == max(reached.values())
    assert list(found.verdicts["markov"].differences) == ["map@2", "recall@10", "tail.map@2"]


def test_the_same_grid_again_trains_nothing(found, folder):
    again = job(folder)
    result = run_grid(again, GRID, "gru bce")
    assert again.watch.events == []
    assert str((result.winner, result.verdicts)) == str((found.winner, found.verdicts))  # some are nan


def test_winner_and_baseline_are_kept_and_test_is_scored_once(found, folder):
    fitted = keep_winner(found, folder)
    for role, recommender in fitted.items():
        loaded = Recommender.load(folder / role)
        assert loaded.recommend([["i3", "i4"]], k=2) == recommender.recommend([["i3", "i4"]], k=2)
        name = {"winner": found.winner, "baseline": "gru bce"}[role]
        mean = loaded.metrics_["scores"][loaded.metrics_["model"]]["map@2"]["mean"]
        assert mean == pytest.approx(found.results[name][0].values["map@2"])
    files = [folder / role / "model.safetensors" for role in fitted]
    before = [file.stat().st_mtime_ns for file in files]
    test = (log(20, name="t"), None)
    first = score_test(found, folder, test)
    assert first == json.loads((folder / "test.json").read_text()) == score_test(found, folder, test)
    assert first["winner"]["users"] == first["baseline"]["users"] == 20
    assert [file.stat().st_mtime_ns for file in files] == before
    with pytest.raises(RunError, match="test was scored already"):
        score_test(found, folder, (log(21, name="t"), None))


def test_winner_and_baseline_are_tested_on_the_same_users(tmp_path):
    """concat_mlp needs 4 items before the truth, gru one; 5 of the 20 users have 3 in all."""
    result = run_grid(job(tmp_path), points("gru", "concat_mlp"), "gru bce")
    first = score_test(result, tmp_path, (log(20, name="t"), None))
    assert {first[role]["users"] for role in ("winner", "baseline")} == {15}


def test_a_store_of_the_other_job_is_refused(found, folder):
    with pytest.raises(RunError, match=r"holds a grid of `recommend`, not of `classify`\. Choose another --out"):
        grid_cases.job(folder).prepare(grid_cases.gammas(None))


def test_other_users_are_told_from_other_settings(found, folder):
    with pytest.raises(RunError, match=r"(?s)other data.*shortest history: 1 -> 4"):
        run_grid(job(folder), points("gru", "concat_mlp"), "gru bce")
    with pytest.raises(RunError, match=r"(?s)other settings.*train\.epochs: 2 -> 3"):
        run_grid(job(folder, base=settings(train__epochs=3)), points("gru"), "gru bce")


def test_leave_one_out_compares_and_tests_all_users(tmp_path):
    base = settings(data__protocol="leave-one-out")
    whole = log(20, short=False)
    given = {"base": base, "train": whole, "test": whole}
    result = run_grid(job(tmp_path, **given), points("gru", "concat_mlp", "markov", base=base), "gru bce")
    assert result.prepared.data.counts["valid"]["users"] == 20
    first = score_test(result, tmp_path, (whole, None))
    assert {first[role]["users"] for role in ("winner", "baseline")} == {20}
