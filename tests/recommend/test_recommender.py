"""The job from a log to recommendations: what is learnt, kept, resumed, scored and refused."""

import json
from dataclasses import replace
from io import StringIO

import pandas as pd
import polars as pl
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, GroupKFold
from sklearn.utils.validation import check_is_fitted

from hyperfocal.data.logs import Log
from hyperfocal.data.synthetic_logs import make_challenges
from hyperfocal.errors import ConfigError, DataError, LeakError, RunError, TrainingError
from hyperfocal.models import baselines
from hyperfocal.models.baselines import KINDS
from hyperfocal.recommend.recommender import Recommender
from hyperfocal.recommend.terminal import scores_report
from hyperfocal.storage.run_folder import RunFolder
from watch_cases import on_step

FAST = {"train.epochs": 2, "train.patience": 0, "train.threads": 1, "train.learning_rate": 0.002}


@pytest.fixture(scope="module")
def data():
    return make_challenges(users=400, challenges=60, seed=1)


@pytest.fixture(scope="module")
def fitted(data, tmp_path_factory):
    """Return a fitted network and its run folder."""
    out = tmp_path_factory.mktemp("run") / "run"
    return Recommender(model="concat_mlp", history=10, settings=FAST).fit(data.train, out=out), out


@pytest.fixture
def histories(data):
    rows = data.test.group_by("user_id", maintain_order=True).agg("challenge")
    return rows["challenge"].to_list()


class TestLearning:
    def test_a_network_learns_the_only_rule_there_is(self):
        """Items are solved in a circle, so the next three are certain, as a set."""
        log = Log.from_lists([[f"i{(start + step) % 20}" for step in range(9)] for start in range(20)] * 20)
        settings = {**FAST, "train.epochs": 40, "train.schedule": "constant", "model.dropout": 0.0}
        recommender = Recommender(model="concat_mlp", history=4, seed=3, settings=settings).fit(log)
        assert set(recommender.recommend([["i3", "i4", "i5", "i6"]], k=3)[0]) == {"i7", "i8", "i9"}
        assert recommender.metrics_["scores"]["concat_mlp"]["map@3"]["mean"] == 1

    @pytest.mark.parametrize("loss", ["softmax", "focal", "bce", "asymmetric", "gbce", "sampled_softmax"])
    @pytest.mark.parametrize("model", ["transformer", "gru", "mean"])
    def test_encoders_learn_from_every_position(self, model, loss, tmp_path):
        """Items are solved in a circle; short users teach, and histories of any length are answered."""
        rows = [[f"i{(start + step) % 12}" for step in range(2 + start % 7)] for start in range(12)] * 10
        settings = {**FAST, "train.epochs": 30, "train.learning_rate": 0.02, "train.batch_size": 32, "loss.name": loss}
        settings |= {"model.embedding_width": 16, "model.layers": 1, "loss.reduction": "batch", "model.decay": 0.3}
        settings |= {"loss.negatives": 8, "loss.gamma": 1.0, "loss.prior": 0.1}
        recommender = Recommender(model=model, history=4, next_items=1, settings=settings)
        recommender.fit(Log.from_lists(rows), out=tmp_path / "run")
        assert recommender.metrics_["scores"][model]["map@1"]["mean"] == 1
        asked = [["i3"], ["i10", "i11"], [f"i{item}" for item in range(8)]]
        assert Recommender.load(tmp_path / "run").recommend(asked, k=3) == recommender.recommend(asked, k=3)
        assert recommender.metrics_["data"]["examples"] >= 100

    def test_a_width_that_the_heads_cannot_share(self, data):
        settings = FAST | {"model.embedding_width": 10, "model.heads": 4}
        with pytest.raises(ConfigError, match=r"10 is not allowed with model\.heads = 4\. Expected a multiple of 8"):
            Recommender(model="transformer", settings=settings).fit(data.train)

    def test_a_budget_of_time_ends_it_after_an_epoch(self, data):
        settings = FAST | {"train.epochs": 50, "train.minutes": 1e-6}
        assert len(Recommender(model="concat_mlp", history=10, settings=settings).fit(data.train).history_) == 1

    def test_the_loss_falls_and_every_epoch_is_kept(self, data):
        rows = Recommender(model="concat_mlp", history=10, settings=FAST | {"train.epochs": 6}).fit(data.train).history_
        assert [row["epoch"] for row in rows] == [1, 2, 3, 4, 5, 6]
        assert rows[-1]["loss"] < rows[0]["loss"]

    def test_the_same_seed_gives_the_same_bytes_and_another_does_not(self, data):
        first, second, other = (Recommender(seed=seed, settings=FAST).fit(data.train) for seed in (5, 5, 6))
        weights = [each.model_.output()[0] for each in (first, second, other)]
        assert torch.equal(weights[0], weights[1])
        assert not torch.equal(weights[0], weights[2])

    @pytest.mark.parametrize("model", KINDS)
    def test_a_baseline_is_a_model_like_any_other(self, data, histories, model, tmp_path):
        recommender = Recommender(model=model).fit(data.train, out=tmp_path / "run")
        assert recommender.history_ == []
        loaded = Recommender.load(tmp_path / "run")
        assert loaded.recommend(histories) == recommender.recommend(histories)
        assert recommender.metrics_["verdict"]["words"].startswith(model)

    def test_ease_over_a_large_catalogue_is_fitted_only_by_name(self, data, monkeypatch):
        monkeypatch.setattr(baselines, "EASE_DEFAULT", 14)
        metrics = Recommender(model="markov").fit(data.train).metrics_
        assert "ease" not in metrics["scores"]
        assert len(metrics["not_compared"]) == 1
        assert metrics["not_compared"][0].startswith(f"ease is not in the table: {metrics['data']['items']} items are")
        console = Console(width=200, file=StringIO())
        console.print(scores_report(metrics, title="Validation"))
        assert metrics["not_compared"][0] in console.file.getvalue()
        named = Recommender(model="ease").fit(data.train).metrics_
        assert "ease" in named["scores"]
        assert named["not_compared"] == []

    def test_ease_over_too_many_items_writes_nothing(self, data, monkeypatch, tmp_path):
        monkeypatch.setattr(baselines, "EASE_ITEMS", 14)
        with pytest.raises(ConfigError, match=r"ease over \d+ items is not allowed"):
            Recommender(model="ease").fit(data.train, out=tmp_path / "run")
        assert not (tmp_path / "run" / "config.toml").exists()

    def test_validation_users_are_held_out_and_items_of_others_are_the_catalogue(self, data):
        recommender = Recommender(model="popularity", settings={"data.valid_fraction": 0.25}).fit(data.train)
        counts = recommender.metrics_["data"]
        assert counts["users"] + counts["valid"]["users"] == data.train["user_id"].n_unique()
        assert counts["valid"]["users"] == round(0.25 * data.train["user_id"].n_unique())
        assert counts["events"] == 13 * counts["users"]

    def test_users_too_short_for_an_example_are_counted_and_still_teach_baselines(self):
        log = Log.from_lists([["a", "b", "c"]] * 10 + [["a", "z"]] * 90)
        recommender = Recommender(model="concat_mlp", history=2, next_items=1, settings=FAST).fit(log)
        assert recommender.metrics_["data"]["skipped_users"] == 90
        markov = replace(recommender.ranker_, model=recommender.baselines_["markov"])
        ranking = markov.rank(recommender.vocabulary_.encode_lists([["a"]]), 1)
        assert ranking.names(recommender.vocabulary_) == [["z"]]

    def test_a_diverging_training_says_what_to_do(self, data):
        settings = FAST | {"train.optimizer": "sgd", "train.learning_rate": 1e30}
        with pytest.raises(TrainingError, match=r"train\.learning_rate"):
            Recommender(model="concat_mlp", history=10, settings=settings).fit(data.train)


class TestLeaveOneOut:
    ROWS = tuple([f"i{(start + step) % 7}" for step in range(6)] for start in range(7))
    SETTINGS = FAST | {"data.protocol": "leave-one-out"}

    @pytest.fixture
    def log(self):
        return Log.from_lists([*self.ROWS, ["i0", "i9"]])

    def test_the_second_last_item_validates_and_the_last_is_for_test(self, log):
        """The last two items of each are the only ones that test and validation could have taught."""
        recommender = Recommender(model="markov", next_items=3, settings=self.SETTINGS).fit(log)
        counts = recommender.metrics_["data"]
        assert counts["events"] == 7 * 4 + 2
        assert counts["valid"]["users"] == counts["valid"]["true_items"] == 7
        assert recommender.metrics_["scores"]["markov"]["map@3"]["mean"] == 1
        found = recommender.evaluate(log)
        assert found["users"] == found["data"]["true_items"] == 7
        assert found["data"]["skipped_users"] == 1  # taught with both its items
        assert found["scores"]["markov"]["mrr@3"]["mean"] == 1

    def test_a_network_reads_what_came_before(self, log, tmp_path):
        settings = self.SETTINGS | {"train.epochs": 40, "train.learning_rate": 0.02, "model.embedding_width": 16}
        settings |= {"loss.name": "softmax", "loss.reduction": "batch", "model.decay": 0.2}
        recommender = Recommender(model="mean", next_items=1, history=5, settings=settings).fit(log, out=tmp_path / "r")
        assert recommender.evaluate(log)["scores"]["mean"]["map@1"]["mean"] == 1
        assert Recommender.load(tmp_path / "r").evaluate(log) == recommender.evaluate(log)

    def test_the_first_network_needs_its_history(self, log):
        with pytest.raises(DataError, match="no user has 6 items or more; the longest has 4"):
            Recommender(model="concat_mlp", history=5, settings=self.SETTINGS).fit(log)

    def test_nothing_is_left_to_learn_from(self):
        with pytest.raises(DataError, match="no user has 2 items to learn from besides the held-out ones"):
            Recommender(settings=self.SETTINGS).fit(Log.from_lists([[first, "y", "z"] for first in "abcdef"]))

    def test_a_validation_file_is_refused(self, log):
        with pytest.raises(ConfigError, match="Leave `valid=` out"):
            Recommender(model="markov", settings=self.SETTINGS).fit(log, log)


class TestRecommending:
    def test_histories_of_any_length_and_unknown_items(self, fitted, histories):
        recommender, _ = fitted
        long = histories[0] + histories[1] + histories[2]
        answers = recommender.recommend([[], histories[0][:1], long, ["never seen"]], k=4)
        assert [len(answer) for answer in answers] == [4, 4, 4, 4]
        assert answers[0] == answers[3]

    def test_items_of_the_history_only_with_repeats(self, histories, data):
        recommender = Recommender(model="popularity").fit(data.train)
        popular = recommender.recommend([[]], k=3)[0]
        assert not set(recommender.recommend([popular], k=3)[0]) & set(popular)
        assert recommender.recommend([popular], k=3, repeats=True) == [popular]

    def test_nothing_is_invented_when_the_catalogue_runs_out(self):
        recommender = Recommender(model="markov", history=2, next_items=1).fit(Log.from_lists([["a", "b", "c"]] * 4))
        assert recommender.recommend([["a", "b"]], k=3) == [["c"]]

    @pytest.mark.parametrize("k", [0, -1, 10_000])
    def test_a_wrong_k(self, fitted, k):
        with pytest.raises(ConfigError, match="the number of items"):
            fitted[0].recommend([["C1"]], k=k)

    def test_rows_of_a_log_in_long_form(self, fitted, data):
        recommender, _ = fitted
        log = data.test.select(pl.col("user_id").alias("kid"), pl.col("challenge").alias("thing"))
        prediction = recommender.predict(log.rename({"kid": "user", "thing": "item"}), k=5)
        assert prediction.frame.columns == ["user", "item", "rank", "score", "known"]
        assert prediction.users == data.test["user_id"].n_unique()
        per_user = prediction.frame.group_by("user", maintain_order=True).agg("rank", "score")
        assert set(map(tuple, per_user["rank"].to_list())) == {(1, 2, 3, 4, 5)}
        assert all(row == sorted(row, reverse=True) for row in per_user["score"].to_list())

    def test_the_challenge_format_gets_a_submission(self, fitted, data):
        frame = fitted[0].predict(data.test).frame
        assert frame.columns == ["user_sequence", "challenge"]
        assert frame["user_sequence"].to_list() == data.test_truth["user_sequence"].to_list()

    def test_a_frame_of_pandas(self, data):
        rows = data.train
        frame = pd.DataFrame({"user": rows["user_id"].to_list(), "item": rows["challenge"].to_list()})
        fitted = [Recommender(model="markov").fit(source) for source in (frame, rows)]
        assert fitted[0].vocabulary_.ids.equals(fitted[1].vocabulary_.ids)

    def test_a_lazy_frame(self, data):
        assert len(Recommender(model="markov").fit(data.train.lazy()).vocabulary_) > 50

    def test_columns_that_predictions_have_too(self, data):
        log = data.train.select(pl.col("user_id").alias("user"), pl.col("challenge").alias("rank"))
        recommender = Recommender(model="markov", settings={"data.item": "rank"}).fit(log)
        with pytest.raises(ConfigError, match="Rename yours"):
            recommender.predict(log)

    def test_before_fitting(self):
        with pytest.raises(RunError, match="Call fit"):
            Recommender().recommend([["C1"]])

    def test_anything_else_is_refused(self):
        with pytest.raises(DataError, match="is not a source of rows"):
            Recommender().fit(42)


class TestScoring:
    def test_evaluate_gives_the_numbers_of_a_written_out_map(self, fitted, data, histories):
        recommender, _ = fitted
        truth = data.test_truth["challenge"].to_list()
        total = 0.0
        for number, predicted in enumerate(recommender.recommend(histories, k=3)):
            wanted = truth[3 * number : 3 * number + 3]
            hits = [item in wanted for item in predicted]
            total += sum(sum(hits[: r + 1]) / (r + 1) for r in range(3) if hits[r]) / 3
        metrics = recommender.evaluate(data.test, data.test_truth)
        assert metrics["scores"]["concat_mlp"]["map@3"]["mean"] == pytest.approx(total / len(histories))

    def test_a_model_that_loses_is_reported_so_in_words(self):
        circle = Log.from_lists([[f"i{(start + step) % 40}" for step in range(12)] for start in range(40)] * 5)
        metrics = Recommender(model="popularity").fit(circle).metrics_
        assert metrics["verdict"]["words"].startswith("popularity loses to ")

    def test_truth_that_training_never_saw_counts_and_is_counted(self, data):
        recommender = Recommender(model="markov").fit(data.train)
        first = pl.int_range(pl.len()) == 0
        truth = data.test_truth.with_columns(challenge=pl.when(first).then("challenge").otherwise(pl.lit("new")))
        metrics = recommender.evaluate(data.test, truth)
        assert metrics["scores"]["markov"]["map@3"]["mean"] < 0.02
        assert metrics["data"]["unseen_true_items"] == metrics["users"] == 80

    def test_a_truth_in_which_nothing_is_known_is_no_score_of_zero(self, data):
        recommender = Recommender(model="markov").fit(data.train)
        known = recommender.vocabulary_.names[0]
        with pytest.raises(DataError, match=f"none of the 80 true items is known to the run.* for example '{known}'"):
            recommender.evaluate(data.test, data.test_truth.with_columns(challenge=pl.lit("new")))

    def test_without_a_truth_the_last_items_are_it(self, fitted, data):
        whole = pl.concat([data.test.select("user_sequence", "challenge"), data.test_truth])
        recommender, _ = fitted
        assert recommender.evaluate(whole)["scores"] == recommender.evaluate(data.test, data.test_truth)["scores"]

    def test_a_truth_of_other_users_is_no_pair(self, fitted, data):
        other = data.test_truth.with_columns(user_sequence="9" + pl.col("user_sequence"))
        with pytest.raises(DataError, match="Check that the two files belong together"):
            fitted[0].evaluate(data.test, other)
        metrics = fitted[0].evaluate(data.test, pl.concat([data.test_truth, other.head(3)]))
        assert metrics["data"]["users_without_history"] == 1

    def test_a_wrong_k(self, fitted, data):
        with pytest.raises(ConfigError, match="k = 0 is not allowed"):
            fitted[0].evaluate(data.test, data.test_truth, k=0)

    def test_nobody_to_score(self, fitted):
        with pytest.raises(DataError, match="no user can be scored"):
            fitted[0].evaluate(Log.from_lists([["C1", "C2"]]))


class TestKeeping:
    def test_a_loaded_recommender_is_the_saved_one(self, fitted, histories):
        recommender, out = fitted
        loaded = Recommender.load(out)
        assert loaded.recommend(histories, k=10) == recommender.recommend(histories, k=10)
        assert loaded.metrics_ == json.loads(json.dumps(recommender.metrics_, allow_nan=False))
        assert loaded.history_ == recommender.history_
        assert loaded.settings_ == recommender.settings_

    def test_save_writes_what_fit_writes_but_the_checkpoint(self, fitted, tmp_path):
        recommender, out = fitted
        recommender.save(tmp_path / "copy")
        names = {path.name for path in out.iterdir()}
        assert {path.name for path in (tmp_path / "copy").iterdir()} == names - {"checkpoints"}

    @pytest.mark.parametrize(
        "name", ["config.toml", "model.safetensors", "baselines.safetensors", "vocabulary.json", "metrics.json"]
    )
    @pytest.mark.parametrize("damage", ["missing", "truncated", "empty"])
    def test_a_damaged_run_is_named(self, fitted, tmp_path, name, damage):
        fitted[0].save(tmp_path / "run")
        file = tmp_path / "run" / name
        whole = file.read_bytes()
        file.unlink()
        if damage != "missing":
            file.write_bytes(whole[: len(whole) // 2 if damage == "truncated" else 0])
        with pytest.raises((RunError, ConfigError), match=name.replace(".", r"\.")):
            Recommender.load(tmp_path / "run")

    def test_parts_of_different_runs_do_not_fit(self, fitted, tmp_path):
        fitted[0].save(tmp_path / "run")
        other = Recommender(model="markov", history=2, next_items=1).fit(Log.from_lists([["a", "b", "c"]] * 4))
        other.save(tmp_path / "other")
        (tmp_path / "run" / "vocabulary.json").write_bytes((tmp_path / "other" / "vocabulary.json").read_bytes())
        with pytest.raises(RunError, match="is damaged"):
            Recommender.load(tmp_path / "run")

    def test_a_run_from_before_a_baseline_existed_still_loads_and_says_so(self, fitted, data, histories, tmp_path):
        recommender, _ = fitted
        recommender.save(tmp_path / "run")
        file = tmp_path / "run" / "baselines.safetensors"
        tensors = load_file(file)
        save_file({key: tensor for key, tensor in tensors.items() if not key.startswith(("item_knn", "ease"))}, file)
        metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
        del metrics["blend"]["weights"]  # the blend of such a run is linear
        (tmp_path / "run" / "metrics.json").write_text(json.dumps(metrics))
        loaded = Recommender.load(tmp_path / "run")
        assert loaded.recommend(histories) == recommender.recommend(histories)
        metrics = loaded.evaluate(data.train)
        assert list(metrics["scores"]) == [
            "concat_mlp",
            "blend",
            *[name for name in KINDS if name not in ("item_knn", "ease")],
        ]
        assert metrics["not_compared"] == [
            f"{name} is not in the table: the run was fitted before hyperfocal had it. Give `model='{name}'` to fit it."
            for name in ("item_knn", "ease")
        ]

    def test_a_baselines_file_without_popularity_is_damaged(self, fitted, tmp_path):
        fitted[0].save(tmp_path / "run")
        file = tmp_path / "run" / "baselines.safetensors"
        save_file({key: part for key, part in load_file(file).items() if not key.startswith("popularity")}, file)
        with pytest.raises(RunError, match=r"baselines\.safetensors is damaged \(it has no popularity\)"):
            Recommender.load(tmp_path / "run")

    def test_another_run_is_not_replaced_unasked(self, fitted, data):
        recommender, out = fitted
        before = (out / "model.safetensors").read_bytes()
        with pytest.raises(RunError, match="`overwrite=True`"):
            recommender.save(out)
        with pytest.raises(RunError, match="`overwrite=True`"):
            Recommender().fit(data.train, out=out)
        assert (out / "model.safetensors").read_bytes() == before

    def test_bad_data_does_not_cost_the_run_that_is_replaced(self, fitted, tmp_path):
        fitted[0].save(tmp_path / "run")
        with pytest.raises(DataError, match="no user has 2 items or more"):
            Recommender().fit(Log.from_lists([["a"]] * 3), out=tmp_path / "run", overwrite=True)
        Recommender.load(tmp_path / "run")


class TestResuming:
    def interrupted(self, data, out, *, at):
        """Fit until some number of looks at the progress, as if Ctrl-C were pressed then."""
        looks = iter(range(1, 1000))

        def stop(progress, steps):
            if next(looks) == at:
                raise KeyboardInterrupt

        settings = FAST | {"train.checkpoint_seconds": 0, "train.batch_size": 8, "model.dropout": 0.3}
        with pytest.raises(KeyboardInterrupt):
            Recommender(model="concat_mlp", history=10, settings=settings).fit(data.train, out=out, watch=on_step(stop))
        return Recommender(model="concat_mlp", history=10, settings=settings)

    @pytest.mark.parametrize("at", [1, 2, 3])
    def test_ends_with_the_same_bytes(self, data, tmp_path, at):
        recommender = self.interrupted(data, tmp_path / "stopped", at=at).fit(
            data.train, out=tmp_path / "stopped", resume=True
        )
        recommender.fit(data.train, out=tmp_path / "whole")
        for name in ("model.safetensors", "metrics.json", "config.toml"):
            assert (tmp_path / "stopped" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()

    def test_the_settings_need_not_be_repeated(self, data, tmp_path):
        self.interrupted(data, tmp_path / "run", at=2)
        resumed = Recommender().fit(data.train, out=tmp_path / "run", resume=True)
        assert resumed.settings_.model.dropout == 0.3

    def test_other_settings_are_refused_with_the_difference(self, data, tmp_path):
        self.interrupted(data, tmp_path / "run", at=2)
        with pytest.raises(ConfigError, match=r"loss\.gamma: 2\.0 -> 3\.0"):
            Recommender(settings={"loss.gamma": 3.0}).fit(data.train, out=tmp_path / "run", resume=True)

    def test_other_data_are_refused(self, data, tmp_path):
        self.interrupted(data, tmp_path / "run", at=2)
        other = make_challenges(users=400, challenges=60, seed=2).train
        with pytest.raises(RunError, match="other data"):
            Recommender().fit(other, out=tmp_path / "run", resume=True)

    def test_without_a_run_it_starts_one(self, data, tmp_path):
        Recommender(model="markov").fit(data.train, out=tmp_path / "run", resume=True)
        assert Recommender.load(tmp_path / "run").settings_.model.name == "markov"

    def test_an_unfinished_run_cannot_predict_and_says_why(self, data, tmp_path):
        self.interrupted(data, tmp_path / "run", at=2)
        with pytest.raises(RunError, match="`resume=True`"):
            Recommender.load(tmp_path / "run")

    def test_renamed_items_are_other_data(self, data, tmp_path):
        renamed = data.train.with_columns(challenge="X" + pl.col("challenge"))
        for model in ("markov", "concat_mlp"):
            out = tmp_path / model
            Recommender(model=model, history=10, settings=FAST).fit(data.train, out=out)
            with pytest.raises(RunError, match="other data"):
                Recommender().fit(renamed, out=out, resume=True)


class TestHabits:
    def test_clone_and_parameters(self):
        recommender = Recommender(model="markov", seed=4)
        copy = clone(recommender)
        assert copy.get_params() == recommender.get_params()
        assert copy.set_params(seed=5).seed == 5
        with pytest.raises(ValueError, match="Invalid parameter 'sed'"):
            copy.set_params(sed=5)

    def test_scikit_learn_knows_when_it_is_fitted(self, data):
        recommender = Recommender(model="markov")
        with pytest.raises(NotFittedError):
            check_is_fitted(recommender)
        assert not hasattr(recommender, "settings_")
        check_is_fitted(recommender.fit(data.train))
        assert repr(recommender) == "Recommender(model='markov')"

    def test_a_search_that_keeps_users_whole(self):
        """docs/commands.md has an example; without a function scikit-learn finds no `score`."""
        rows = [(user, (user + 3 * order) % 20, order) for user in range(60) for order in range(8)]
        log = pl.DataFrame(rows, schema=["user", "item", "order"], orient="row")
        tested = []

        def map_at_3(recommender, part, truth=None):
            tested.append(set(part["user"]))
            scores = recommender.evaluate(part)
            return scores["scores"][scores["model"]]["map@3"]["mean"]

        models = {"model": ["popularity", "markov"]}
        search = GridSearchCV(Recommender(), models, cv=GroupKFold(3), scoring=map_at_3, error_score="raise")
        search.fit(log, groups=log["user"].to_numpy())
        assert search.best_params_ == {"model": "markov"}
        assert len(tested) == 6
        assert [len(users) for users in tested] == [20] * 6  # all events of 20 users
        with pytest.raises(TypeError, match="should have a 'score' method"):
            GridSearchCV(Recommender(), models, cv=GroupKFold(3)).fit(log, groups=log["user"].to_numpy())

    def test_a_fit_that_fails_leaves_the_earlier_one(self, data):
        recommender = Recommender(model="markov").fit(data.train)
        before = recommender.fit_
        diverging = FAST | {"train.optimizer": "sgd", "train.learning_rate": 1e30}
        with pytest.raises(TrainingError):
            recommender.set_params(model="concat_mlp", history=10, settings=diverging).fit(data.train)
        assert recommender.fit_ is before

    def test_fitted_attributes_are_read_only(self, fitted):
        with pytest.raises(AttributeError):
            fitted[0].blend_weight_ = 1.0

    def test_the_settings_of_a_fit_are_known_before_it(self, fitted):
        recommender, out = fitted
        assert recommender.resolve() == recommender.settings_
        assert Recommender().resolve(RunFolder(out)) == recommender.settings_

    def test_fitting_leaves_the_caller_random_numbers_alone(self, data):
        torch.manual_seed(0)
        expected = torch.rand(3)
        torch.manual_seed(0)
        Recommender(model="concat_mlp", history=10, settings=FAST).fit(data.train)
        assert torch.equal(torch.rand(3), expected)

    def test_a_truth_needs_its_histories(self, data):
        with pytest.raises(ConfigError, match="`valid_truth=`"):
            Recommender().fit(data.train, valid_truth=data.test_truth)

    def test_a_leak_between_the_parts(self, data):
        with pytest.raises(LeakError, match="are in training too"):
            Recommender().fit(data.train, data.train)


class TestTwoWriters:
    """Two programs that load one run, update it and save it: the second is refused instead of losing the first."""

    def test_a_run_that_was_replaced_since_it_was_loaded(self, data, tmp_path):
        Recommender(model="popularity").fit(data.train).save(tmp_path / "run")
        first, second = (Recommender.load(tmp_path / "run") for _ in range(2))
        first.save(tmp_path / "run", overwrite=True)
        first.save(tmp_path / "run", overwrite=True)  # it knows its own
        with pytest.raises(RunError, match="another run has been written there since this one was loaded"):
            second.save(tmp_path / "run", overwrite=True)
        second.save(tmp_path / "other")
        Recommender.load(tmp_path / "run").save(tmp_path / "run", overwrite=True)

    def test_a_run_that_was_fitted_there(self, data, tmp_path):
        popular = Recommender(model="popularity").fit(data.train, out=tmp_path / "run")
        popular.save(tmp_path / "run", overwrite=True)
        Recommender(model="markov").fit(data.train).save(
            tmp_path / "run", overwrite=True
        )  # it was made from another run, or from none
        with pytest.raises(RunError, match="Load it again, or save to another folder"):
            popular.save(tmp_path / "run", overwrite=True)
