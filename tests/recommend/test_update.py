"""Going on from a run: new events, users and items, and nothing of the old forgotten."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperfocal.cli.recommend import recommend
from hyperfocal.data.logs import Log
from hyperfocal.errors import ConfigError, DataError, RunError
from hyperfocal.recommend.recommender import Recommender
from hyperfocal.recommend.update import merge
from hyperfocal.sequences import Sequences
from watch_cases import on_step

SETTINGS = {
    "train.epochs": 20,
    "train.patience": 0,
    "train.threads": 1,
    "train.batch_size": 32,
    "train.learning_rate": 0.02,
    "model.embedding_width": 16,
    "model.decay": 0.3,
    "loss.name": "softmax",
    "loss.reduction": "batch",
}
OLD, NEW = 12, 15  # items of the circle before and after


def circle(users, size, first="u"):
    """Return a log of users who go round: i0, i1, ..., each from another start."""
    rows = [(f"{first}{user}", f"i{(user + step) % size}", step) for user in range(users) for step in range(5)]
    return pl.DataFrame(rows, schema=["user", "item", "position"], orient="row")


def recommender(model="mean", **more):
    return Recommender(model=model, history=4, next_items=1, settings=SETTINGS | more)


class TestMerging:
    def test_written_out(self):
        fitted = recommender("markov", **{"data.valid_fraction": 0.4}).fit(circle(4, 6), circle(2, 6, first="v"))
        log = Log(pl.Series(["u1", "z"]), pl.Series(["i9", "i0", "i9"]), torch.tensor([0, 1, 3]).numpy())
        merged = merge(fitted.fit_, log)
        assert merged.users.to_list() == ["u0", "u1", "u2", "u3", "z"]
        assert merged.vocabulary.ids.to_list() == ["i0", "i1", "i2", "i3", "i4", "i5", "i9"]
        rows = [merged.events.block(user, user + 1).items.tolist() for user in range(5)]
        assert rows == [[0, 1, 2, 3, 4], [1, 2, 3, 4, 5, 6], [2, 3, 4, 5, 0], [3, 4, 5, 0, 1], [0, 6]]
        assert merged.added.tolist() == [0, 1, 0, 0, 2]

    @settings(deadline=None, max_examples=50)
    @given(st.lists(st.lists(st.integers(0, 5), max_size=6), min_size=1, max_size=8), st.data())
    def test_parts_of_sequences(self, rows, data):
        whole = Sequences(
            torch.tensor([item for row in rows for item in row], dtype=torch.int64),
            torch.tensor([0, *map(len, rows)]).cumsum(0),
            6,
        )
        users = data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=10))
        counts = [data.draw(st.integers(0, len(rows[user]))) for user in users]
        found = whole.select(torch.tensor(users, dtype=torch.int64)).first(torch.tensor(counts, dtype=torch.int64))
        expected = [rows[user][:count] for user, count in zip(users, counts, strict=True)]
        assert [found.block(n, n + 1).items.tolist() for n in range(len(users))] == expected


class TestUpdating:
    @pytest.mark.parametrize("model", ["mean", "transformer", "gru", "concat_mlp"])
    def test_new_items_are_learnt_and_old_ones_not_forgotten(self, model):
        """The circle grows by three items; 11 was followed by 0 and is now followed by 12."""
        more = {"data.history": 2} if model == "concat_mlp" else {}
        found = recommender(model, **more, **{"train.learning_rate": 0.06}).fit(circle(60, OLD))
        found.update(circle(150, NEW, first="n"), epochs=30)
        metrics = found.metrics_
        assert metrics["scores"][model]["map@1"]["mean"] > 0.9 > metrics["before"]["map@1"]["mean"]
        answers = found.recommend([["i2", "i3"], ["i12", "i13"], ["i10", "i11"]], k=3)
        assert [wanted in answer for wanted, answer in zip(["i4", "i14", "i12"], answers, strict=True)] == [True] * 3

    def test_baselines_count_everything_again(self):
        log, new = circle(30, OLD), circle(40, NEW, first="n")
        updated = recommender("markov").fit(log).update(new)
        events = updated.metrics_["data"]["events"]
        assert int(updated.baselines_["popularity"].counts.sum()) == events == 27 * 5 + 36 * 5
        assert updated.metrics_["data"]["new_items"] == NEW - OLD
        assert updated.metrics_["data"]["new_users"] == 40
        assert updated.recommend([["i13"]], k=1) == [["i14"]]

    def test_users_who_validate_teach_nothing_new_and_are_kept(self):
        found = recommender("markov", **{"data.valid_fraction": 0.5}).fit(circle(30, OLD))
        before = len(found.events_.items)
        found.update(circle(40, NEW, first="n"))
        assert int(found.baselines_["popularity"].counts.sum()) == before + 20 * 5
        assert found.metrics_["users"] == 20
        assert len(found.events_.items) == before + 40 * 5

    @pytest.mark.parametrize("blend", [False, True])
    def test_before_is_the_recommender_as_it_was(self, blend):
        """Old users went round by ones, new users go by threes: nothing of that was known."""
        found = recommender(**{"model.blend": blend}).fit(circle(60, OLD))
        rows = [(f"n{user}", f"i{(user + 3 * step) % OLD}", step) for user in range(60) for step in range(4)]
        found.update(pl.DataFrame(rows, schema=["user", "item", "position"], orient="row"), epochs=1)
        assert found.metrics_["before"]["map@1"]["mean"] < 0.1

    @pytest.mark.parametrize("epochs", [0, True, 1.5, "1", None, np.float64(1)])
    def test_epochs_that_are_no_number_of_passes(self, epochs):
        found = recommender("markov").fit(circle(30, OLD))
        with pytest.raises(ConfigError, match=r"epochs = .* is not allowed\. Expected a whole number from 1 to "):
            found.update(circle(40, NEW, first="n"), epochs=epochs)

    def test_epochs_of_numpy(self):
        found = recommender().fit(circle(30, OLD)).update(circle(40, NEW, first="n"), epochs=np.int64(1))
        assert len(found.history_) == 1

    def test_one_that_is_cut_short_changes_nothing(self, monkeypatch):
        found = recommender().fit(circle(60, OLD))
        before = dict(vars(found))

        def stop(*_):
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            found.update(circle(60, NEW, first="n"), watch=on_step(stop))
        assert vars(found) == before

    def test_a_run_that_was_kept_goes_on_the_same(self, tmp_path):
        fitted = recommender().fit(circle(60, OLD), out=tmp_path / "run")
        loaded = Recommender.load(tmp_path / "run")
        ours, theirs = (each.update(circle(60, NEW, first="n"), epochs=2) for each in (fitted, loaded))
        assert torch.equal(ours.model_.embedding.weight, theirs.model_.embedding.weight)

    def test_features_of_new_items(self):
        table = pl.DataFrame({"item": [f"i{n}" for n in range(NEW)], "odd": ["xy"[n % 2] for n in range(NEW)]})
        found = recommender().fit(circle(60, OLD), items=table)
        values = found.features_.values.tolist()
        found.update(circle(60, NEW, first="n"), items=table, epochs=1)
        assert len(found.features_.numbers) == NEW
        assert found.features_.values[: len(values)].tolist() == values
        assert found.features_.offsets.diff().tolist() == [1] * NEW
        without = recommender().fit(circle(60, OLD), items=table).update(circle(60, NEW, first="n"), epochs=1)
        assert without.features_.offsets.diff().tolist() == [1] * OLD + [0] * (NEW - OLD)


class TestCommand:
    @pytest.fixture
    def run(self, tmp_path):
        recommender().fit(circle(60, OLD), out=tmp_path / "run")
        (tmp_path / "run/notes.txt").write_text("mine")
        circle(60, NEW, first="n").write_csv(tmp_path / "new.csv")
        return tmp_path / "run"

    def test_replaces_the_run_and_keeps_what_is_not_of_it(self, run):
        command = ["update", str(run), str(run.parent / "new.csv"), "--epochs", "2"]
        result = CliRunner().invoke(recommend, command, catch_exceptions=False)
        assert "300 new events, 60 new users, 3 new items." in result.output
        assert "map@1 on them was" in result.output
        assert len(Recommender.load(run).vocabulary_) == NEW
        assert (run / "notes.txt").read_text() == "mine"
        assert sorted(path.name for path in run.parent.iterdir()) == ["new.csv", "run"]

    def test_the_report_of_an_updated_run_is_of_the_update(self, run):
        command = ["update", str(run), str(run.parent / "new.csv"), "--epochs", "1"]
        result = CliRunner().invoke(recommend, command, catch_exceptions=False)
        assert f"Report: {run / 'report.html'}" in result.output
        kept = json.loads((run / "evidence.json").read_text())
        metrics = json.loads((run / "metrics.json").read_text())
        assert (kept["job"], kept["items"], kept["users"]) == ("recommend", NEW, metrics["users"])
        hits, true = (sum(row[name] for row in kept["table"]) for name in ("hits", "true"))
        assert true == metrics["data"]["valid"]["true_items"]
        assert hits / kept["users"] == pytest.approx(metrics["scores"][metrics["model"]]["hit@1"]["mean"])
        assert "evidence.json" in json.loads((run / "manifest.json").read_text())["files"]
        assert "has no evidence.json" not in (run / "report.html").read_text(encoding="utf-8")

    def test_another_folder(self, run, tmp_path):
        before = (run / "model.safetensors").read_bytes()
        command = ["update", str(run), str(tmp_path / "new.csv"), "--epochs", "1", "--out", str(tmp_path / "second")]
        CliRunner().invoke(recommend, command, catch_exceptions=False)
        assert (run / "model.safetensors").read_bytes() == before
        assert len(Recommender.load(tmp_path / "second").vocabulary_) == NEW

    def test_into_the_working_folder(self, run, tmp_path, monkeypatch):
        (tmp_path / "here").mkdir()
        monkeypatch.chdir(tmp_path / "here")
        command = ["update", "../run", "../new.csv", "--epochs", "1", "--out", "."]
        result = CliRunner().invoke(recommend, command, catch_exceptions=False)
        assert result.exit_code == 0, result.output
        assert len(Recommender.load(".").vocabulary_) == NEW
        assert [path.name for path in Path().glob(".*")] == []

    def test_of_the_working_folder_is_refused_before_it_trains(self, run, monkeypatch):
        monkeypatch.chdir(run)
        monkeypatch.setattr(Recommender, "update", lambda *_, **__: pytest.fail("trained"))
        result = CliRunner().invoke(recommend, ["update", ".", "../new.csv"])
        assert result.exit_code == 2
        assert "cannot be replaced: it is the working folder. Write to another folder with" in result.output

    def test_other_columns_leave_the_run_as_it_is(self, run, tmp_path):
        (tmp_path / "odd.csv").write_text("a,b,c,d\n1,2,3,4\n")
        before = (run / "model.safetensors").read_bytes()
        result = CliRunner().invoke(recommend, ["update", str(run), str(tmp_path / "odd.csv")])
        assert result.exit_code == 2
        assert "no column 'user', from which this run reads the user" in result.stderr
        assert (run / "model.safetensors").read_bytes() == before

    def test_a_linked_run_stays_linked(self, run, tmp_path):
        (tmp_path / "link").symlink_to(run)
        command = ["update", str(tmp_path / "link"), str(tmp_path / "new.csv"), "--epochs", "1"]
        CliRunner().invoke(recommend, command, catch_exceptions=False)
        assert (tmp_path / "link").is_symlink()
        assert len(Recommender.load(run).vocabulary_) == NEW
        assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]


class TestWhatIsRefused:
    def test_a_run_made_to_be_measured(self):
        found = recommender("markov", **{"data.protocol": "leave-one-out"}).fit(circle(30, OLD))
        with pytest.raises(ConfigError, match="this run left each user's last two items out"):
            found.update(circle(9, NEW, first="n"))

    def test_a_table_that_nothing_reads(self):
        with pytest.raises(ConfigError, match="this run was fitted without a table of items"):
            recommender("markov").fit(circle(30, OLD)).update(circle(9, NEW, first="n"), items="none.csv")

    def test_too_few_users(self):
        with pytest.raises(DataError, match="the new log has 1 users with 2 items or more; an update needs 2"):
            recommender("markov").fit(circle(30, OLD)).update(circle(1, NEW, first="n"))

    def test_a_run_without_events(self, tmp_path):
        recommender("markov").fit(circle(30, OLD), out=tmp_path / "run")
        (tmp_path / "run/events.safetensors").unlink()
        with pytest.raises(RunError, match="an earlier version, which kept no events"):
            Recommender.load(tmp_path / "run").update(circle(9, NEW, first="n"))

    def test_before_fitting(self):
        with pytest.raises(RunError, match="is not fitted"):
            recommender().update(circle(9, NEW))
