"""--track: what MLflow and TensorBoard are told, read back with their own readers."""

import json
import sys

import pytest
from mlflow import MlflowClient
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from command_cases import TINY, done, invoke, refused, rows, write
from hyperfocal.errors import DataError

FAST = ("--set", "train.epochs=3", "--set", "train.threads=1", "--set", "train.warmup_steps=0")
SMALL = (*FAST, "--set", "model.embedding_width=8", "--set", "model.layers=1", "--history", 5, "--next", 2)


@pytest.fixture
def store(tmp_path, monkeypatch):
    """Let MLflow keep its runs in files of the test, which are quicker to make than a database."""
    uri = (tmp_path / "mlruns").as_uri()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    return uri


@pytest.fixture
def log(tmp_path):
    """Write a log of users who take items in a circle."""
    lines = ["user,item\n"]
    for user in range(60):
        lines += [f"u{user},i{(user * 7 + step) % 20}\n" for step in range(8)]
    path = tmp_path / "log.csv"
    path.write_text("".join(lines))
    return path


def mlflow_runs(uri, job):
    """Return the runs of an experiment, the first one first."""
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name(f"hyperfocal-{job}")
    found = client.search_runs([experiment.experiment_id])
    return client, sorted(found, key=lambda run: run.info.start_time)


def events(folder):
    reader = EventAccumulator(str(folder))
    reader.Reload()
    return reader


def scalars(folder):
    """Return name -> [(step, value)] of TensorBoard's files."""
    reader = events(folder)
    return {name: [(row.step, row.value) for row in reader.Scalars(name)] for name in reader.Tags()["scalars"]}


def history(run):
    return [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]


BOTH = ("--track", "mlflow", "--track", "tensorboard")


def test_recommend_fit_tells_both_the_same(store, log, tmp_path):
    run = tmp_path / "run"
    done("recommend", "fit", log, "--out", run, "--model", "gru", *SMALL, *BOTH)
    client, [kept] = mlflow_runs(store, "recommend")
    assert (kept.info.run_name, kept.info.status) == ("run", "FINISHED")
    assert kept.data.params["model.name"] == "gru"
    assert kept.data.params["train.epochs"] == "3"
    drawn = scalars(run / "tensorboard")
    assert set(kept.data.metrics) == set(drawn)
    assert {"loss", "map_at_3", "train_seconds", "final/map_at_2", "final/popularity.map_at_2"} <= set(drawn)
    for name, key in (("loss", "loss"), ("map_at_3", "map@3")):
        expected = [(row["epoch"], pytest.approx(row[key])) for row in history(run)]
        assert [(each.step, each.value) for each in client.get_metric_history(kept.info.run_id, name)] == expected
        assert drawn[name] == expected
    scores = json.loads((run / "metrics.json").read_text())["scores"]["gru"]["map@2"]["mean"]
    assert kept.data.metrics["final/map_at_2"] == pytest.approx(scores)
    [text] = events(run / "tensorboard").Tensors("settings/text_summary")
    assert b"| model.name | gru |" in text.tensor_proto.string_val[0]


def test_a_baseline_has_no_epochs_but_scores(store, log, tmp_path):
    done("recommend", "fit", log, "--out", tmp_path / "run", "--model", "markov", *BOTH)
    _, [kept] = mlflow_runs(store, "recommend")
    assert set(kept.data.metrics) == set(scalars(tmp_path / "run" / "tensorboard"))
    assert kept.data.metrics["final/map_at_3"] > 0


def test_classify_fit_and_its_folds(store, tmp_path):
    docs, run = write(tmp_path / "d.jsonl", rows()), tmp_path / "run"
    texts = ("--text", "title", "--text", "body", "--features", "ngrams", *TINY, "--set", "train.folds=2")
    done("classify", "fit", docs, "--out", run, *texts, *BOTH)
    _, [kept] = mlflow_runs(store, "classify")
    drawn = scalars(run / "tensorboard")
    assert set(kept.data.metrics) == set(drawn)
    assert [step for step, _ in drawn["training_3/loss"]] == [1, 2]  # two folds, and then the whole
    values = json.loads((run / "metrics.json").read_text())["values"]
    assert kept.data.metrics["final/tuned.macro_f1"] == pytest.approx(values["tuned.macro_f1"])


def test_fit_again_with_overwrite_draws_anew_and_resume_goes_on(log, tmp_path):
    run = tmp_path / "run"
    for number, extra in enumerate(((), ("--overwrite",), ("--resume",))):
        done("recommend", "fit", log, "--out", run, "--model", "gru", *SMALL, "--track", "tensorboard", *extra)
        files = list((run / "tensorboard").glob("events.*"))
        assert len(files) == (2 if number == 2 else 1)


def test_a_grid_has_a_nested_run_a_point(store, log, tmp_path):
    out = tmp_path / "grid"
    asked = ("recommend", "grid", log, "--encoders", "markov,popularity", "--seeds", 1, "--out", out, *BOTH)
    done(*asked, "--seeds", 1)
    _, [parent, *children] = mlflow_runs(store, "recommend")
    assert parent.info.run_name == "grid"
    assert {child.info.run_name for child in children} == {"markov seed 0", "popularity seed 0"}
    assert {child.data.tags["mlflow.parentRunId"] for child in children} == {parent.info.run_id}
    assert {child.data.params["model.name"] for child in children} == {"markov", "popularity"}
    for child in children:
        drawn = scalars(out / "tensorboard" / child.info.run_name)
        assert set(drawn) == set(child.data.metrics)
        assert drawn["final/map_at_3"][0][1] == pytest.approx(child.data.metrics["final/map_at_3"])


@pytest.mark.slow
def test_a_grid_of_texts_and_a_search(store, tmp_path):
    docs = write(tmp_path / "d.jsonl", rows())
    texts = ("--text", "title", "--text", "body", "--set", "features.kind=ngrams", *TINY, "--track", "mlflow")
    done(
        "classify",
        "grid",
        docs,
        "--caps",
        "none,6",
        "--gammas",
        "none",
        "--seeds",
        1,
        "--out",
        tmp_path / "grid",
        *texts,
    )
    _, found = mlflow_runs(store, "classify")
    assert [run.info.run_name for run in found if "loss.name" in run.data.params] == [
        "grid", "no_cap_no_focal seed 0", "cap_6.0_no_focal seed 0",
    ]  # fmt: skip
    done("classify", "grid", docs, "--search", "optuna", "--trials", 2, "--out", tmp_path / "search", *texts)
    _, found = mlflow_runs(store, "classify")
    assert len(found) == 3 + 1 + 3  # the base settings and two trials
    assert all("loss.name" in run.data.params for run in found)


@pytest.mark.slow
def test_a_database_where_a_variable_names_one(log, tmp_path, monkeypatch):
    uri = f"sqlite:///{tmp_path / 'runs.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    done("recommend", "fit", log, "--out", tmp_path / "run", "--model", "gru", *SMALL, "--track", "mlflow")
    _, [kept] = mlflow_runs(uri, "recommend")
    assert kept.data.metrics["loss"] == pytest.approx(history(tmp_path / "run")[-1]["loss"])


class TestWhatGoesWrong:
    def test_a_tracker_that_breaks_costs_one_warning(self, store, log, tmp_path, monkeypatch):
        def fail(*_, **__):
            raise OSError("no space left\nat all")

        monkeypatch.setattr("mlflow.MlflowClient.log_metric", fail)
        result = invoke("recommend", "fit", log, "--out", tmp_path / "run", "--model", "gru", *SMALL, *BOTH)
        assert result.exit_code == 0
        warning = "warning: --track mlflow is dropped: no space left. Training continues without it"
        assert result.stderr.count("warning") == 1
        assert warning in " ".join(result.stderr.split())
        assert [step for step, _ in scalars(tmp_path / "run" / "tensorboard")["loss"]] == [1, 2, 3]

    def test_a_store_that_cannot_be_written(self, log, tmp_path, monkeypatch):
        (tmp_path / "file").write_text("")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "file" / "mlruns").as_uri())
        monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
        result = invoke("recommend", "fit", log, "--out", tmp_path / "run", "--model", "markov", "--track", "mlflow")
        assert result.exit_code == 0
        assert result.stderr.count("--track mlflow is dropped") == 1

    @pytest.mark.parametrize("name", ["mlflow", "tensorboard"])
    def test_a_missing_extra_is_named_before_anything_trains(self, name, log, tmp_path, monkeypatch):
        monkeypatch.setattr("hyperfocal.report.tracking.importlib.util.find_spec", lambda _: None)
        message = refused("recommend", "fit", log, "--out", tmp_path / "run", "--track", name)
        assert f"`pip install 'hyperfocal[{name}]'`" in message
        assert not (tmp_path / "run").exists()

    def test_a_training_that_fails_is_a_failed_run(self, store, log, tmp_path, monkeypatch):
        def fail(*_, **__):
            raise DataError("nobody to score")

        monkeypatch.setattr("hyperfocal.recommend.fitting.score_validation", fail)
        assert "nobody to score" in refused(
            "recommend", "fit", log, "--out", tmp_path / "run", "--model", "gru", *SMALL, *BOTH
        )
        _, [kept] = mlflow_runs(store, "recommend")
        assert kept.info.status == "FAILED"
        assert kept.data.metrics["loss"] > 0

    def test_another_name(self, log, tmp_path):
        result = invoke("recommend", "fit", log, "--out", tmp_path / "run", "--track", "wandb")
        assert result.exit_code == 2
        assert "'wandb' is not one of 'mlflow', 'tensorboard'" in result.stderr


def test_without_the_option_neither_package_is_imported(log, tmp_path, monkeypatch):
    for name in ("mlflow", "tensorboard", "torch.utils.tensorboard"):
        monkeypatch.setitem(sys.modules, name, None)
    done("recommend", "fit", log, "--out", tmp_path / "run", "--model", "markov")
    assert not (tmp_path / "run" / "tensorboard").exists()
