import sys

import pytest

from grid_cases import job, settings
from hyperfocal.classify.grid import RANGES
from hyperfocal.errors import ConfigError
from hyperfocal.grid.adaptive import BASELINE, check_ranges
from hyperfocal.grid.points import normalised
from hyperfocal.grid.search import run_search

LOSSES = {"loss.name": ["bce", "focal", "balanced"], "loss.gamma": {"low": 1, "high": 3}, "loss.cap": ["off", 4.0]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("search")


@pytest.fixture(scope="module")
def first(folder):
    begun = job(folder)
    return run_search(begun, LOSSES, 10), begun.watch


def settings_of(result):
    return {point.name: point.settings for point in result.points}


def test_a_search_finds_points_beside_the_baseline(first):
    result, seen = first
    assert next(iter(result.results)) == result.baseline == BASELINE
    assert result.points[0].settings == normalised(settings())
    assert seen.of("finished") == sorted(f"{point.name} 0" for point in result.points)
    assert len(result.points) > 4
    best = max(result.results, key=lambda name: result.results[name][0].values["tuned.macro_f1"])
    assert result.winner == best


def test_a_range_of_a_fraction_is_not_only_of_whole_numbers(first):
    drawn = {point.settings.loss.gamma for point in first[0].points if point.settings.loss.name == "focal"}
    assert all(1 <= gamma <= 3 for gamma in drawn)
    assert any(gamma % 1 for gamma in drawn)


def test_names_say_the_loss(first):
    for point in first[0].points[1:]:
        assert point.name.startswith("trial_")
        assert point.name.endswith(point.settings.loss.name)


def test_no_two_points_train_the_same(first):
    """A gamma for bce is not read: such proposals are one point."""
    found = [point.settings for point in first[0].points]
    assert len(set(found)) == len(found)


def test_the_same_search_starts_nothing(first, folder):
    again = job(folder)
    result = run_search(again, LOSSES, 10)
    assert again.watch.events == []
    assert settings_of(result) == settings_of(first[0])
    assert result.winner == first[0].winner


def test_more_trials_go_on_where_it_stopped(first, folder):
    """The tenth trial was in a batch of two; the batch is then one of four, and only new points are trained."""
    again = job(folder)
    result = run_search(again, LOSSES, 12)
    before = settings_of(first[0])
    assert {name: found for name, found in settings_of(result).items() if name in before} == before
    assert again.watch.of("started") == sorted(f"{name} 0" for name in settings_of(result).keys() - before.keys())


def test_a_search_that_was_stopped_proposes_the_same(first, tmp_path):
    def interrupt():
        raise KeyboardInterrupt

    sixth = [point.name for point in first[0].points][5]
    stopped = job(tmp_path)
    stopped.watch.on_start[sixth] = interrupt
    with pytest.raises(KeyboardInterrupt):
        run_search(stopped, LOSSES, 10)
    again = job(tmp_path)
    result = run_search(again, LOSSES, 10)
    assert settings_of(result) == settings_of(first[0])
    assert sorted(stopped.watch.of("finished") + again.watch.of("finished")) == first[1].of("finished")


def test_another_seed_proposes_others(first, tmp_path):
    result = run_search(job(tmp_path, base=settings(seed=1)), LOSSES, 4)
    gammas = [{p.settings.loss.gamma for p in found.points[1:5]} for found in (result, first[0])]
    assert gammas[0] != gammas[1]


def test_failed_proposals_do_not_stop_it(tmp_path):
    """Half of the proposals have a rate at which the loss becomes infinite."""
    begun = job(tmp_path)
    ranges = {"train.learning_rate": [0.002, 1e30], "loss.gamma": {"low": 1, "high": 3}, "loss.name": ["focal"]}
    result = run_search(begun, ranges, 8)
    assert len(result.points) == 9
    assert len(result.failed) + sum(map(len, result.results.values())) == 9
    assert {row.settings.train.learning_rate for row in result.failed} == {1e30}
    assert {rows[0].settings.train.learning_rate for rows in result.results.values()} == {0.002, 0.001}
    again = job(tmp_path)
    assert settings_of(run_search(again, ranges, 8)) == settings_of(result)
    assert again.watch.events == []


def test_proposals_that_train_as_the_baseline_are_the_baseline(tmp_path):
    begun = job(tmp_path)
    result = run_search(begun, {"loss.name": ["bce"], "loss.gamma": {"low": 1, "high": 3}}, 5)
    assert [point.name for point in result.points] == [BASELINE]
    assert begun.watch.events == ["started baseline 0", "finished baseline 0"]


def test_a_metric_without_a_value_fails_the_proposal_alone(tmp_path):
    """No label has so many documents that it is of the head."""
    with pytest.raises(Exception, match="--by head_ap: no point has a value"):
        run_search(job(tmp_path, by="head_ap"), LOSSES, 2)


@pytest.mark.parametrize(
    ("ranges", "message"),
    [
        ({}, "no ranges"),
        ({"loss.gama": [1.0]}, "loss.gama.*Did you mean"),
        ({"loss.name": ["bce", "hinge"]}, "loss.name.*hinge"),
        ({"loss.name": "bce"}, "loss.name = 'bce' is not a range"),
        ({"loss.name": []}, "is not a range"),
        ({"loss.name": [["bce"]]}, "is not a range"),
        ({"loss.gamma": {"low": 1.0}}, "is not a range"),
        ({"loss.gamma": {"low": 3.0, "high": 1.0}}, "low < high"),
        ({"loss.gamma": {"low": 1.0, "high": 1.0}}, "low < high"),
        ({"loss.gamma": {"low": 0.0, "high": 3.0, "log": True}}, "needs low > 0"),
        ({"loss.gamma": {"low": 1.0, "high": 3.0, "step": 1}}, "is not a range"),
        ({"loss.gamma": {"low": 1.0, "high": float("inf")}}, "is not a range"),
        ({"loss.gamma": {"low": 1.0, "high": 9.0}}, "loss.gamma.*9"),
        ({"loss.alpha": {"low": "none", "high": "none"}}, "is not a range"),
        ({"head.width": {"low": 1.5, "high": 3.5}}, "head.width"),
        ({"seed": [0, 1]}, "seed cannot vary"),
        ({"train.folds": [0, 5]}, "train.folds cannot vary"),
        ({"data.valid_fraction": [0.1, 0.2]}, "data.valid_fraction cannot vary"),
        ({"features.kind": ["ngrams", "both"]}, "features.kind cannot vary"),
    ],
)
def test_wrong_ranges_are_refused_before_documents_are_read(tmp_path, ranges, message):
    with pytest.raises(ConfigError, match=rf"(?s)search.*{message}"):
        run_search(job(tmp_path, train=tmp_path / "missing.jsonl"), ranges, 3)


def test_the_ranges_of_the_command_are_allowed():
    check_ranges(RANGES, settings())


@pytest.mark.parametrize("trials", [0, -1])
def test_no_trials(tmp_path, trials):
    with pytest.raises(ConfigError, match=f"--trials {trials} is not allowed"):
        run_search(job(tmp_path), LOSSES, trials)


def test_without_optuna_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ConfigError, match=r"pip install 'hyperfocal\[search\]'"):
        run_search(job(tmp_path, train=tmp_path / "missing.jsonl"), LOSSES, 3)
