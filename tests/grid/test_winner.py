import json
import math
import threading

import pytest

from grid_cases import FORKS, documents, filled, gammas, job, keep, points, wait_until
from hyperfocal.classify.classifier import MultiLabelClassifier
from hyperfocal.errors import RunError
from hyperfocal.grid import store as store_module
from hyperfocal.grid.points import Point
from hyperfocal.grid.search import run_grid
from hyperfocal.grid.winner import keep_winner, score_test

GRID = gammas(None, 2, 3, seeds=2)
BASELINE = "no_cap_no_focal"
TEST = documents(30, seed=7)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("grid")


@pytest.fixture(scope="module")
def found(folder):
    return run_grid(job(folder), GRID, BASELINE)


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


@pytest.fixture
def counted(monkeypatch):
    """Return what was called: "fit" and "evaluate" of classifiers."""
    calls = []
    for name, called in (("fit", "fit_prepared"), ("evaluate", "evaluate")):
        own = getattr(MultiLabelClassifier, called)
        monkeypatch.setattr(
            MultiLabelClassifier,
            called,
            lambda self, *given, own=own, name=name, **options: calls.append(name) or own(self, *given, **options),
        )
    return calls


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_baseline_that_wins_is_fitted_and_scored_once(tmp_path, counted):
    result = run_grid(job(tmp_path), filled(tmp_path, {"a": [0.5], "b": [0.4]}), "a")
    found = score_test(result, tmp_path, TEST)
    assert counted == ["fit", "evaluate"]
    assert found["winner"] == found["baseline"]
    assert contents(tmp_path / "winner") == contents(tmp_path / "baseline")
    texts = TEST.texts.to_list()
    loaded = [MultiLabelClassifier.load(tmp_path / role).predict(texts) for role in ("winner", "baseline")]
    assert loaded[0] == loaded[1]
    assert any(loaded[0])


def test_a_baseline_that_wins_later_replaces_the_winner(tmp_path, counted):
    grid = filled(tmp_path, {"a": [0.5], "b": [0.6]})
    keep_winner(run_grid(job(tmp_path), grid, "a"), tmp_path)
    (tmp_path / "winner" / "checkpoints").mkdir(exist_ok=True)
    (tmp_path / "winner" / "checkpoints" / "old").touch()  # of the run that is replaced
    kept = keep_winner(run_grid(job(tmp_path), grid[:1], "a"), tmp_path)
    assert counted == ["fit", "fit"]  # b and a, and neither again
    assert kept["winner"] is kept["baseline"]
    assert contents(tmp_path / "winner") == contents(tmp_path / "baseline")


def test_a_copy_that_was_cut_off_is_made_again(tmp_path, counted):
    result = run_grid(job(tmp_path), filled(tmp_path, {"a": [0.5], "b": [0.4]}), "a")
    keep_winner(result, tmp_path)
    for name in ("model.safetensors", "vocabulary.json"):  # the first is written last
        (tmp_path / "winner" / name).unlink()
    (tmp_path / "winner" / ".123.vocabulary.json").touch()
    keep_winner(result, tmp_path)
    assert counted == ["fit"]
    assert contents(tmp_path / "winner") == contents(tmp_path / "baseline")


def test_files_that_are_no_run_stop_a_copy(tmp_path):
    (tmp_path / "winner").mkdir()
    (tmp_path / "winner" / "mine.txt").touch()
    result = run_grid(job(tmp_path), filled(tmp_path, {"a": [0.5], "b": [0.4]}), "a")
    with pytest.raises(RunError, match=r"winner: it holds other files \(mine\.txt\) and no run"):
        keep_winner(result, tmp_path)


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
    with pytest.raises(
        RunError, match=r"scored already, for a against a\. Scoring c, or other data, would choose on test"
    ):
        score_test(run_grid(job(tmp_path), changed, "a"), tmp_path, TEST)
    assert (tmp_path / "test.json").read_text() == before
    assert MultiLabelClassifier.load(tmp_path / "winner").settings_.loss.gamma == 1.0  # still a


def test_a_name_does_not_make_a_winner_the_same(tmp_path):
    """A search calls its points trial_01_focal whatever its ranges."""
    base, first, other = filled(tmp_path, {"base": [0.3], "trial": [0.5], "other": [0.6]})
    score_test(run_grid(job(tmp_path), [base, first], "base"), tmp_path, TEST)
    with pytest.raises(RunError, match="scored already"):
        score_test(run_grid(job(tmp_path), [base, Point("trial", 0, other.settings)], "base"), tmp_path, TEST)


def test_of_two_processes_that_end_a_grid_at_once_one_keeps_the_winner(tmp_path):
    filled(tmp_path, {"p0": [0.4], "p1": [0.5]})  # as points(2)
    together = FORKS.Barrier(2)
    both = [FORKS.Process(target=keep, args=(tmp_path, together, f"kept{number}")) for number in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(120)
    assert [process.exitcode for process in both] == [0, 0]
    assert (tmp_path / "fits").read_text().split() == ["1.0", "1.1"]  # the baseline and the winner, once each
    assert [(tmp_path / f"kept{number}").read_text() for number in range(2)] == ["1.1 1.0"] * 2
    assert not job(tmp_path).prepare(points(2))[1].held()


def test_a_process_waits_for_its_turn_and_says_so(tmp_path, monkeypatch, caplog):
    _, store = job(tmp_path).prepare(points(1))
    done = []
    monkeypatch.setattr(store_module, "WAIT_SECONDS", 0.01)

    def second():
        with store.alone("keeping the winner"):
            done.append("second")

    with store.alone("keeping the winner"):
        other = threading.Thread(target=second)
        other.start()
        wait_until(lambda: caplog.messages)
        done.append("first")
    other.join(30)
    assert done == ["first", "second"]
    assert caplog.messages == [
        f"grid {store.path.parent}: another process is keeping the winner; this one waits for it"
    ]
