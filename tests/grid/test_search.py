import math
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
import torch
from scipy import stats

from grid_cases import LABELS, documents, failing, filled, gammas, job, points, settings
from hyperfocal.data.documents import Documents
from hyperfocal.errors import ConfigError, DataError, LeakError, RunError
from hyperfocal.grid.local import LocalPool
from hyperfocal.grid.points import Point
from hyperfocal.grid.reading import read_grid
from hyperfocal.grid.search import check_metric, compare, run_grid
from hyperfocal.machine import count_cores
from hyperfocal.metrics import verdict
from hyperfocal.metrics.differences import Outcome

GRID = gammas(None, 2, 3, seeds=2)
BASELINE = "no_cap_no_focal"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("grid")


@pytest.fixture(scope="module")
def found(folder):
    return run_grid(job(folder), GRID, BASELINE)


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


def test_what_decides_and_what_tells_how_much_trainings_vary(tmp_path):
    """One seed of a grid that had two, and a metric without resamples; also as read from the folder."""
    given = {"train": documents(240)}
    run_grid(job(tmp_path, **given), gammas(None, 2, seeds=2), BASELINE)
    single = run_grid(job(tmp_path, **given, by="macro_ap"), gammas(None, 2), BASELINE)
    for verdicts in (single.verdicts, read_grid(tmp_path / "grid").verdicts):
        told = verdicts["no_cap_focal_g2"]
        assert (told.primary, told.differences["macro_ap"].seeds) == ("macro_ap", 1)
        assert told.differences["macro_ap"].repeated
    other = run_grid(job(tmp_path, **given, by="ndcg@5"), gammas(None, 2), BASELINE)
    assert (other.by, other.verdicts["no_cap_focal_g2"].primary) == ("ndcg@5", "tuned.macro_f1")


@pytest.mark.parametrize("units", [20, 1_000])
def test_the_documents_that_are_scored_limit_the_degrees_of_freedom(units):
    resamples = {"tuned.macro_f1": torch.tensor([0.4, 0.6])}
    points = {
        "base": [Outcome(0, {"tuned.macro_f1": 0.5}, {"tuned.macro_f1": torch.tensor([0.5, 0.5])})],
        "other": [Outcome(0, {"tuned.macro_f1": 0.6}, resamples)],
    }
    found = compare(points, "base", verdict.LABELS, "tuned.macro_f1", about={"validation documents": units}, earlier=[])
    reach = math.sqrt(0.02) * stats.t.ppf(0.975, units - 1)
    difference = found["other"].differences["tuned.macro_f1"]
    assert difference.high - difference.mean == pytest.approx(reach, rel=1e-6)


def test_the_same_grid_again_trains_nothing(found, folder):
    again = job(folder)
    result = run_grid(again, GRID, BASELINE)
    assert again.watch.events == []
    assert (result.winner, repr(result.verdicts)) == (found.winner, repr(found.verdicts))  # nan is not equal to nan


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
    """The list of the source is that of real trainings."""
    allowed = job(Path()).source.metrics(settings())
    for metric in found.results[BASELINE][0].values:
        if metric.endswith(("calibration_error", "labels_per_document", "labels_without_truth")):
            with pytest.raises(ConfigError):
                check_metric(metric, allowed)
        else:
            check_metric(metric, allowed)


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


@pytest.mark.parametrize(("grouped", "said"), [(False, ""), (True, "too few groups of documents (3) to compare")])
def test_what_too_few_groups_show_is_not_told(tmp_path, grouped, said):
    valid = documents(30, seed=5)
    if grouped:
        valid = replace(valid, groups=pl.Series([f"source {place % 3}" for place in range(30)]))
    one = job(tmp_path)
    result = run_grid(replace(one, source=replace(one.source, valid=valid)), gammas(None, 2), BASELINE)
    reading = read_grid(tmp_path / "grid")
    for found in (result.verdicts, reading.verdicts):
        assert (found["no_cap_focal_g2"].words == said) == grouped
        assert found[BASELINE].words == "the baseline"


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


def test_threads_of_the_settings_hold_up_to_the_share(tmp_path, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    for asked in (1, count_cores() + 5):
        prepared, _ = job(tmp_path, pool=LocalPool(), base=settings(train__threads=asked)).prepare(points(1))
        assert prepared.threads == min(asked, count_cores())


def leaking():
    """Return test documents, one of which is a training document too."""
    return Documents.from_lists(["sport"] * 2, [["sport"]] * 2, ids=["new", "0-3"])


def unknown():
    """Return test documents without a label of training."""
    return Documents.from_lists(["a"], [["other"]], ids=["new"])


@pytest.mark.parametrize(
    ("test", "error"), [(leaking, LeakError), (unknown, DataError), (lambda: "no.jsonl", DataError)]
)
def test_test_documents_are_looked_at_before_anything_is_written(tmp_path, test, error):
    with pytest.raises(error):
        run_grid(job(tmp_path, test=test()), GRID, BASELINE)
    assert not list(tmp_path.iterdir())


def test_test_labels_that_the_taxonomy_lacks(tmp_path):
    tree = tmp_path / "tree.tsv"
    tree.write_text("id\tparent\tname\n" + "".join(f"{name}\t\t{name}\n" for name in LABELS))
    with pytest.raises(DataError, match="1 labels are not in the taxonomy, first 'other'"):
        run_grid(job(tmp_path, base=settings(data__taxonomy=str(tree)), test=unknown()), GRID, BASELINE)
    assert list(tmp_path.iterdir()) == [tree]


def test_a_folder_with_a_run_is_refused(tmp_path):
    (tmp_path / "grid").mkdir()
    for name in ("config.toml", "data.json"):
        (tmp_path / "grid" / name).touch()
    with pytest.raises(RunError, match=r"grid .*: holds a run of `fit`"):
        run_grid(job(tmp_path, train=tmp_path / "missing.jsonl"), GRID, BASELINE)
    assert len(list((tmp_path / "grid").iterdir())) == 2


def test_threads_are_shared_unless_given(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert job(tmp_path, pool=LocalPool()).prepare(points(1))[0].threads == 1
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert job(tmp_path, pool=LocalPool()).prepare(points(1))[0].threads == count_cores()
    assert job(tmp_path, pool=LocalPool(count_cores())).prepare(points(1))[0].threads == 1
    assert job(tmp_path, pool=LocalPool(1, 7)).prepare(points(1))[0].threads == 7
    with pytest.raises(ConfigError, match="--workers"):
        LocalPool(count_cores() + 1)
