import json
import math

import pytest
import torch
from grid_cases import documents, failing, gammas, job, points, settings

from hyperfocal.errors import ConfigError, RunError
from hyperfocal.grid.points import Point
from hyperfocal.grid.search import check_metric, keep_winner, run_grid, score_test
from hyperfocal.tasks.classify import MultiLabelClassifier
from hyperfocal.train import count_cores

GRID = gammas(None, 2, 3, seeds=2)
BASELINE = "no_cap_no_focal"
TEST = documents(30, seed=7)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("grid")


@pytest.fixture(scope="module")
def found(folder):
    return run_grid(job(folder), GRID, BASELINE)


def filled(folder, reached, *, metric="tuned.macro_f1"):
    """Return points with results as given: name -> a value a seed, None where it failed."""
    grid = []
    _, store = job(folder).prepare(points(1))
    for number, (name, values) in enumerate(reached.items()):
        for seed, value in enumerate(values):
            point = Point(name, seed, settings(seed=seed, loss__name="focal", loss__gamma=1 + number / 10))
            grid.append(point)
            if value is None:
                store.fail(point, "out of luck")
            else:
                store.put(point, {metric: value}, {metric: torch.full((10,), value)}, seconds=1)
    return grid


# What a grid says


def test_a_grid_from_documents_to_the_winner(found):
    assert list(found.results) == [BASELINE, "no_cap_focal_g2", "no_cap_focal_g3"]
    assert [[row.seed for row in rows] for rows in found.results.values()] == [[0, 1]] * 3
    assert found.failed == []
    means = {name: sum(row.values[found.by] for row in rows) / 2 for name, rows in found.results.items()}
    assert means[found.winner] == max(means.values())
    assert found.verdicts.keys() == found.results.keys()
    assert found.verdicts[BASELINE].words == "the baseline"
    assert found.verdicts["no_cap_focal_g2"].differences["macro_ap"].seeds == 2


def test_the_same_grid_again_trains_nothing(found, folder):
    again = job(folder)
    result = run_grid(again, GRID, BASELINE)
    assert again.watch.events == []
    assert (result.winner, result.verdicts) == (found.winner, found.verdicts)


def test_the_winner_has_as_many_seeds_as_any_other(tmp_path):
    """Means: a 0.5, c (0.4 + 0.7) / 2 = 0.55; b, 0.9 with one seed, does not compete."""
    grid = filled(tmp_path, {"a": [0.5, 0.5], "b": [0.9, None], "c": [0.4, 0.7], "d": [None, None]})
    result = run_grid(job(tmp_path), grid, "a")
    assert result.winner == "c"
    assert list(result.results) == ["a", "b", "c"]
    assert [(row.name, row.seed, row.error) for row in result.failed] == [
        ("b", 1, "out of luck"),
        ("d", 0, "out of luck"),
        ("d", 1, "out of luck"),
    ]


def test_of_two_alike_the_first_wins(tmp_path):
    assert run_grid(job(tmp_path), filled(tmp_path, {"a": [0.25], "b": [0.5], "c": [0.5]}), "a").winner == "b"


@pytest.mark.parametrize("order", [("a", "b"), ("b", "a")])
def test_a_value_that_is_no_number_never_wins(tmp_path, order):
    values = {"a": [math.nan], "b": [0.1]}
    grid = filled(tmp_path, {name: values[name] for name in order}, metric="tail_ap")
    assert run_grid(job(tmp_path, by="tail_ap"), grid, "a").winner == "b"


def test_no_value_at_all_chooses_nothing(tmp_path):
    grid = filled(tmp_path, {"a": [math.nan], "b": [math.nan]}, metric="tail_ap")
    with pytest.raises(RunError, match="--by tail_ap: no point has a value"):
        run_grid(job(tmp_path, by="tail_ap"), grid, "a")


def test_by_another_metric(tmp_path):
    grid = filled(tmp_path, {"a": [0.2], "b": [0.3]}, metric="ndcg@5")
    assert run_grid(job(tmp_path, by="ndcg@5"), grid, "a").winner == "b"


def test_every_metric_that_grows_better_may_choose(found):
    """The list in `check_metric` is that of real trainings."""
    for metric in found.results[BASELINE][0].values:
        if metric.endswith(("calibration_error", "labels_per_document", "labels_without_truth")):
            with pytest.raises(ConfigError):
                check_metric(metric)
        else:
            check_metric(metric)


@pytest.mark.parametrize("by", ["tuned.macro-f1", "calibration_error", "half.labels_per_document", ""])
def test_an_unknown_metric_is_refused_before_documents_are_read(tmp_path, by):
    with pytest.raises(ConfigError, match=r"(?s)no metric that chooses.*Allowed: macro_ap.*tuned\.macro_f1"):
        run_grid(job(tmp_path, by=by, train=tmp_path / "missing.jsonl"), GRID, BASELINE)


def test_a_near_miss_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"Did you mean 'tuned\.macro_f1'\?"):
        run_grid(job(tmp_path, by="tuned.macrof1"), GRID, BASELINE)


def test_an_unknown_baseline_is_refused_before_documents_are_read(tmp_path):
    with pytest.raises(ConfigError, match="baseline = 'nothing' is no point"):
        run_grid(job(tmp_path, train=tmp_path / "missing.jsonl"), GRID, "nothing")


def test_a_baseline_without_result(tmp_path):
    with pytest.raises(RunError, match=r"the baseline a has no result.*--retry.*--baseline"):
        run_grid(job(tmp_path), filled(tmp_path, {"a": [None], "b": [0.5]}), "a")


def test_when_all_failed_the_reason_is_shown(tmp_path):
    with pytest.raises(RunError, match="all 1 failed: TrainingError: the loss is inf"):
        run_grid(job(tmp_path), [failing()], "fails")


# The folder


def test_a_folder_of_other_data_is_refused(found, folder):
    with pytest.raises(RunError, match=r"(?s)other data.*documents: \d+ -> \d+.*fingerprint of the data"):
        run_grid(job(folder, train=documents(70)), GRID, BASELINE)


def test_a_folder_of_other_settings_is_refused(found, folder):
    with pytest.raises(RunError, match=r"(?s)other settings.*train\.epochs: 2 -> 3"):
        run_grid(job(folder, base=settings(train__epochs=3)), GRID, BASELINE)


def test_a_point_keeps_its_result_under_another_name(found, folder):
    """As when a search meets the baseline of a grid, or a recipe names what flags named before."""
    again = job(folder)
    grid = [Point(f"my {point.name}", point.seed, point.settings) for point in GRID]
    result = run_grid(again, grid, f"my {BASELINE}")
    assert again.watch.events == []
    assert {name: len(rows) for name, rows in result.results.items()} == {f"my {name}": 2 for name in found.results}
    assert result.winner == f"my {found.winner}"
    assert result.verdicts.keys() == result.results.keys()


def test_threads_are_shared_unless_given(tmp_path):
    assert job(tmp_path, threads=0).prepare(points(1))[0].threads == count_cores()
    assert job(tmp_path, threads=0, workers=count_cores()).prepare(points(1))[0].threads == 1
    assert job(tmp_path, threads=7).prepare(points(1))[0].threads == 7
    with pytest.raises(ConfigError, match="--workers"):
        job(tmp_path, threads=0, workers=count_cores() + 1).prepare(points(1))


# The winner, and test


@pytest.fixture(scope="module")
def fitted(found, folder):
    return keep_winner(found, folder)


def test_winner_and_baseline_are_runs_that_predict(found, folder, fitted):
    names = {"winner": found.winner, "baseline": BASELINE}
    for role, classifier in fitted.items():
        loaded = MultiLabelClassifier.load(folder / role)
        texts = TEST.texts.to_list()
        assert loaded.predict(texts) == classifier.predict(texts)
        assert any(loaded.predict(texts))
        stored = found.results[names[role]][0]
        assert classifier.metrics_["values"] == pytest.approx(stored.values, abs=0, rel=0, nan_ok=True)
        assert loaded.settings_.loss == stored.settings.loss


def test_a_kept_winner_is_not_fitted_again(found, folder, fitted):
    files = [folder / role / "model.safetensors" for role in ("winner", "baseline")]
    before = [file.stat().st_mtime_ns for file in files]
    keep_winner(found, folder)
    assert [file.stat().st_mtime_ns for file in files] == before


def test_another_winner_replaces_the_run(tmp_path):
    for best in ("a", "b"):
        folder = tmp_path / best  # each has its store
        result = run_grid(job(folder), filled(folder, {"a": [0.5], "b": [0.4 if best == "a" else 0.6]}), "a")
        assert keep_winner(result, tmp_path / "out")["winner"].settings_.loss.gamma == {"a": 1.0, "b": 1.1}[best]
        assert MultiLabelClassifier.load(tmp_path / "out" / "winner").settings_.loss.gamma == {"a": 1.0, "b": 1.1}[best]


def test_the_first_seed_that_is_done_is_kept(tmp_path):
    grid = filled(tmp_path, {"a": [None, 0.5], "b": [None, 0.4]})
    kept = keep_winner(run_grid(job(tmp_path), grid, "b"), tmp_path)
    assert [classifier.settings_.seed for classifier in kept.values()] == [1, 1]


def test_test_is_scored_once(found, folder, fitted):
    first = score_test(found, folder, TEST)
    path = folder / "test.json"
    assert first == json.loads(path.read_text())
    assert first["of"]["winner"] == found.winner
    evaluated = fitted["winner"].evaluate(TEST)["values"]
    shown = {name: math.nan if value is None else value for name, value in first["winner"]["values"].items()}
    assert shown == pytest.approx(evaluated, abs=0, rel=0, nan_ok=True)
    marked = first | {"baseline": {"values": {"macro_ap": 0.125}}}  # what no evaluation gives
    path.write_text(json.dumps(marked))
    assert score_test(found, folder, TEST) == marked
    path.write_text(json.dumps(first))
    with pytest.raises(RunError, match="test was scored already"):
        score_test(found, folder, documents(30, seed=8))
    path.write_text("{}")
    with pytest.raises(RunError, match=r"test\.json is damaged"):
        score_test(found, folder, TEST)


def test_test_is_not_scored_for_another_winner(tmp_path):
    grid = filled(tmp_path, {"a": [0.5], "b": [0.4]})
    score_test(run_grid(job(tmp_path), grid, "a"), tmp_path, TEST)
    before = (tmp_path / "test.json").read_text()
    changed = filled(tmp_path, {"a": [0.5], "b": [0.4], "c": [0.6]})
    with pytest.raises(RunError, match=r"scored already, for a against a\. Scoring it again for c.*choose on test"):
        score_test(run_grid(job(tmp_path), changed, "a"), tmp_path, TEST)
    assert (tmp_path / "test.json").read_text() == before
    assert MultiLabelClassifier.load(tmp_path / "winner").settings_.loss.gamma == 1.0  # still a


def test_a_name_does_not_make_a_winner_the_same(tmp_path):
    """A search calls its points trial_01_focal whatever its ranges."""
    base, first, other = filled(tmp_path, {"base": [0.3], "trial": [0.5], "other": [0.6]})
    score_test(run_grid(job(tmp_path), [base, first], "base"), tmp_path, TEST)
    with pytest.raises(RunError, match="scored already"):
        score_test(run_grid(job(tmp_path), [base, Point("trial", 0, other.settings)], "base"), tmp_path, TEST)
