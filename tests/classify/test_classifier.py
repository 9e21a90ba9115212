"""The job from texts to labels: what is learnt, decided, kept, resumed, scored and refused."""

import json
import os
import pickle
import shutil
import signal
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
import torch
from scipy.sparse import csr_matrix
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.metrics import average_precision_score, f1_score
from sklearn.model_selection import GridSearchCV, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from hyperfocal.classify.classifier import MultiLabelClassifier
from hyperfocal.classify.label_model import BEST
from hyperfocal.classify.prepare import prepare
from hyperfocal.data.documents import Documents
from hyperfocal.data.synthetic_logs import make_challenges
from hyperfocal.errors import ConfigError, DataError, HyperfocalError, LeakError, RunError, TrainingError
from hyperfocal.losses import frequency_bias
from hyperfocal.models import sentence_encoder as encoder
from hyperfocal.recommend.recommender import Recommender
from hyperfocal.storage.run_folder import without_nan
from text_cases import FAST, NAMES, corpus, matrix
from watch_cases import on_step

TEXTS, LABELS = corpus()
NEW, NEW_LABELS = corpus(60, seed=1)
TREE = "id\tparent\tname\n1\t\tFood\n2\t1\tWine\n3\t2\tRed wine\n4\t\tCars\n"


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """Return a fitted classifier and its run folder."""
    out = tmp_path_factory.mktemp("run") / "run"
    return MultiLabelClassifier(settings=FAST).fit(TEXTS, LABELS, out=out), out


@pytest.fixture
def tree(tmp_path):
    path = tmp_path / "tree.tsv"
    path.write_text(TREE)
    return str(path)


class TestLearning:
    def test_the_words_of_a_label_are_learnt(self, fitted):
        texts = [f"the {name}{number}" for name in NAMES for number in (0, 1)]
        found = fitted[0].classes_[fitted[0].decision_function(texts).argmax(1)]
        assert found.tolist() == [name for name in NAMES for _ in (0, 1)]
        assert fitted[0].metrics_["values"]["macro_ap"] > 0.95
        assert (
            f1_score(matrix(NEW_LABELS, sorted(NAMES)), matrix(fitted[0].predict(NEW), sorted(NAMES)), average="micro")
            > 0.8
        )

    def test_nothing_is_visible_before_a_fit_has_ended(self):
        classifier = MultiLabelClassifier(settings=FAST)

        def stop(progress, steps):
            assert not hasattr(classifier, "settings_")
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            classifier.fit(TEXTS, LABELS, watch=on_step(stop))
        assert not any(hasattr(classifier, name) for name in ("fit_", "vocabulary_", "features_", "classes_"))
        assert classifier.resolve().train.epochs == 3

    def test_fitted_attributes_are_read_only(self, fitted):
        with pytest.raises(AttributeError, match="no setter"):
            fitted[0].head_ = None

    def test_every_epoch_is_kept_and_the_loss_falls(self, fitted):
        rows = fitted[0].history_
        assert [row["epoch"] for row in rows] == [1, 2, 3]
        assert rows[-1]["loss"] < rows[0]["loss"]

    def test_the_same_seed_gives_the_same_bytes_and_another_does_not(self, fitted):
        same, other = (MultiLabelClassifier(settings=FAST, seed=seed).fit(TEXTS, LABELS) for seed in (0, 1))
        assert torch.equal(same.head_.wide, fitted[0].head_.wide)
        assert not torch.equal(other.head_.wide, fitted[0].head_.wide)

    def test_the_cache_changes_nothing(self, fitted, tmp_path):
        for _ in range(2):  # made, then found
            cached = MultiLabelClassifier(settings=FAST).fit(TEXTS, LABELS, cache=tmp_path)
            assert torch.equal(cached.head_.wide, fitted[0].head_.wide)
            assert without_nan(cached.metrics_) == without_nan(fitted[0].metrics_)
        assert any(tmp_path.iterdir())

    def test_documents_prepared_once_give_what_fit_gives(self, fitted):
        classifier = MultiLabelClassifier(settings=FAST)
        data = prepare(Documents.from_lists(TEXTS, LABELS), None, fitted[0].settings_)
        assert without_nan(classifier.fit_prepared(data).metrics_) == without_nan(fitted[0].metrics_)
        assert classifier.fingerprint_ == fitted[0].fingerprint_

    @pytest.mark.parametrize("loss", ["bce", "focal", "asymmetric", "ntr_focal", "balanced", "softmax"])
    def test_every_loss(self, loss):
        classifier = MultiLabelClassifier(loss=loss, cap=6, settings=FAST).fit(TEXTS, LABELS)
        assert classifier.metrics_["values"]["macro_ap"] > 0.5

    @pytest.mark.parametrize("rule", ["half", "global", "per_label", "top_k"])
    def test_every_rule(self, rule):
        classifier = MultiLabelClassifier(decide=rule, settings=FAST | {"decide.k": 2}).fit(TEXTS, LABELS)
        probabilities = classifier.predict_proba(NEW)
        chosen = matrix(classifier.predict(NEW), classifier.classes_.tolist())
        if rule == "half":
            assert np.array_equal(chosen, probabilities > 0.5)
        elif rule == "top_k":
            assert (chosen.sum(1) == 2).all()
            kept = np.where(chosen == 1, probabilities, 1).min(1)
            assert (kept >= np.where(chosen == 0, probabilities, 0).max(1)).all()
        else:
            thresholds = classifier.decisions_.thresholds.numpy()
            assert np.array_equal(chosen, classifier.decision_function(NEW) > thresholds)
            assert (len(set(thresholds.tolist())) == 1) == (rule == "global")

    def test_a_diverging_training_says_what_to_do(self):
        settings = FAST | {"train.sparse_learning_rate": 1e38, "loss.gamma": 0, "loss.reduction": "sum"}
        with pytest.raises(TrainingError, match=r"train\.learning_rate"):
            MultiLabelClassifier(settings=settings).fit(TEXTS, LABELS)

    def test_the_real_encoder(self, tmp_path):
        """Without a common word, champagne is nearer to wine than to a car."""
        texts = ["a glass of wine", "two beers", "the car is fast", "a lorry", "red wine", "his old motorbike"] * 4
        labels = [["drinks"], ["drinks"], ["vehicles"], ["vehicles"], ["drinks"], ["vehicles"]] * 4
        settings = FAST | {"features.kind": "encoder", "head.width": 32, "train.batch_size": 2}
        classifier = MultiLabelClassifier(settings=settings).fit(texts, labels, out=tmp_path / "run")
        new = ["champagne", "a bus to the airport", "a bottle of whisky"]
        scores = classifier.decision_function(new)
        assert classifier.classes_[scores.argmax(1)].tolist() == ["drinks", "vehicles", "drinks"]
        assert np.array_equal(MultiLabelClassifier.load(tmp_path / "run").decision_function(new), scores)


class TestPredicting:
    def test_probabilities_are_sigmoids_of_the_logits_in_the_order_of_the_classes(self, fitted):
        logits = fitted[0].decision_function(NEW)
        assert logits.shape == (60, 6)
        assert logits.dtype == np.float32
        np.testing.assert_allclose(fitted[0].predict_proba(NEW), 1 / (1 + np.exp(-logits)), rtol=1e-5)
        assert fitted[0].classes_.tolist() == sorted(NAMES)
        assert fitted[0].classes_[fitted[0].decision_function(["chess0"]).argmax()] == "chess"

    def test_probabilities_from_some_value_on_are_sparse(self, fitted):
        dense, sparse = fitted[0].predict_proba(NEW), fitted[0].predict_proba(NEW, at_least=np.float64(0.3))
        assert isinstance(sparse, csr_matrix)
        assert np.array_equal(sparse.toarray(), np.where(dense >= 0.3, dense, 0))
        assert sparse.nnz == (dense >= 0.3).sum() > 0

    @pytest.mark.parametrize("at_least", ["much", [0.5, 0.5], np.nan, 2.0, -0.1, np.bool_(True)])
    def test_a_smallest_probability_that_is_no_number(self, fitted, at_least):
        with pytest.raises(ConfigError, match=r"at_least = .* is not allowed\. Expected a number from 0 to 1"):
            fitted[0].predict_proba(NEW, at_least=at_least)

    def test_texts_of_any_kind(self, fitted):
        expected = fitted[0].decision_function(NEW)
        for texts in (tuple(NEW), np.array(NEW), np.array(NEW, dtype=object), pl.Series(NEW), iter(NEW)):
            assert np.array_equal(fitted[0].decision_function(texts), expected)

    def test_empty_texts_and_unknown_words_score_the_bias(self, fitted):
        found = fitted[0].decision_function(["", None, "  ", "quetzal"])
        assert np.array_equal(found, np.tile(fitted[0].head_.bias.detach().numpy(), (4, 1)))

    def test_no_texts(self, fitted):
        assert fitted[0].predict([]) == []
        assert fitted[0].predict_proba([]).shape == (0, 6)

    def test_one_text_is_no_list(self, fitted):
        for ask in (fitted[0].predict, fitted[0].predict_proba, fitted[0].decision_function):
            with pytest.raises(DataError, match=r"one text was given\. Expected a list of texts"):
                ask("sport0")
        with pytest.raises(DataError, match="one text was given"):
            MultiLabelClassifier(settings=FAST).fit("sport0", [["sport"]])

    def test_what_is_no_text(self, fitted):
        with pytest.raises(DataError, match="number 1 is a int, not a text"):
            fitted[0].predict(["sport0", 3])

    def test_rows_with_the_decided_and_the_best_labels(self, fitted):
        frame = fitted[0].predict_documents(pl.DataFrame({"id": ["x", "y"], "text": ["sport0", "art1"]}))
        assert frame.columns == ["id", "labels", "scores", "known"]
        assert frame["id"].to_list() == ["x", "y"]
        assert frame["labels"].to_list() == fitted[0].predict(["sport0", "art1"])
        for row, probabilities in zip(
            frame["scores"].to_list(), fitted[0].predict_proba(["sport0", "art1"]), strict=True
        ):
            assert len(row) == min(BEST, 6)
            assert list(row.values()) == sorted(row.values(), reverse=True)
            expected = dict(zip(fitted[0].classes_.tolist(), probabilities.tolist(), strict=True))
            assert row == pytest.approx(expected, abs=1e-6)

    def test_documents_without_labels_or_id(self, fitted, tmp_path):
        path = tmp_path / "docs.jsonl"
        path.write_text('{"text": "sport0"}\n{"text": null}\n')
        assert fitted[0].predict_documents(path)["id"].to_list() == ["0", "1"]

    def test_an_id_called_as_another_column_of_the_predictions(self):
        docs = pl.DataFrame({"text": TEXTS, "tags": LABELS, "scores": range(len(TEXTS))})
        settings = FAST | {"data.id": "scores", "data.labels": "tags"}
        classifier = MultiLabelClassifier(settings=settings).fit(docs)
        with pytest.raises(ConfigError, match="Rename the id's"):
            classifier.predict_documents(docs)

    def test_before_fitting(self):
        for ask in ("predict", "predict_proba", "decision_function", "predict_documents", "evaluate"):
            with pytest.raises(RunError, match="Call fit"):
                getattr(MultiLabelClassifier(), ask)(["x"])
        with pytest.raises(NotFittedError):
            MultiLabelClassifier().predict(["x"])


class TestScoring:
    def test_evaluate_against_scikit_learn(self, fitted):
        classifier = fitted[0]
        metrics = classifier.evaluate(Documents.from_lists(NEW, NEW_LABELS))
        truth = matrix(NEW_LABELS, classifier.classes_.tolist())
        logits = classifier.decision_function(NEW)
        tuned = matrix(classifier.predict(NEW), classifier.classes_.tolist())
        for average in ("micro", "macro"):
            found = metrics["values"]
            assert found[f"tuned.{average}_f1"] == pytest.approx(f1_score(truth, tuned, average=average))
            assert found[f"half.{average}_f1"] == pytest.approx(f1_score(truth, logits > 0, average=average))
            assert found[f"{average}_ap"] == pytest.approx(average_precision_score(truth, logits, average=average))
        assert classifier.score(NEW, NEW_LABELS) == pytest.approx(metrics["values"]["tuned.micro_f1"])
        rows = {row["label"]: row for row in metrics["labels"]}
        assert rows["art"]["true_documents"] == sum("art" in row for row in NEW_LABELS)
        assert rows["art"]["train_documents"] == classifier.counts_[classifier.classes_.tolist().index("art")]

    def test_a_label_that_only_the_test_has_is_counted_and_left_out(self, fitted):
        added = [[*row, "new"] for row in NEW_LABELS]
        plain, metrics = (fitted[0].evaluate(Documents.from_lists(NEW, labels)) for labels in (NEW_LABELS, added))
        assert metrics["data"]["unseen_labels"] == {"new": 60}
        assert without_nan(metrics["values"]) == without_nan(plain["values"])
        assert len(metrics["labels"]) == 6

    def test_a_label_without_a_test_document_is_left_out_of_macro(self, fitted):
        kept = [[name for name in row if name != "sport"] for row in NEW_LABELS]
        metrics = fitted[0].evaluate(Documents.from_lists(NEW, kept))
        truth = matrix(kept, fitted[0].classes_.tolist())
        tuned = matrix(fitted[0].predict(NEW), fitted[0].classes_.tolist())
        known = truth.any(0)
        expected = f1_score(truth[:, known], tuned[:, known], average="macro")
        assert metrics["values"]["tuned.macro_f1"] == pytest.approx(expected)
        assert metrics["values"]["tuned.labels_without_truth"] == 1

    def test_nothing_to_score(self, fitted):
        with pytest.raises(
            DataError, match="not one of 2 has a label that training has; they have other labels, such as 'new'"
        ):
            fitted[0].evaluate(Documents.from_lists(["a", "b"], [["new"], []]))

    def test_validation_is_scored_with_decisions_that_never_saw_it(self):
        """Labels drawn by lot cannot be learnt, and tuning on the very documents must not look as if."""
        rng = np.random.default_rng(0)
        labels = [[f"l{label}" for label in rng.choice(20, 2)] for _ in TEXTS]
        classifier = MultiLabelClassifier(settings=FAST).fit(TEXTS, labels, valid=(NEW * 3, labels[:60] * 3))
        assert classifier.metrics_["values"]["tuned.macro_f1"] < 0.35

    def test_score_of_nothing_right(self, fitted):
        assert fitted[0].score(["sport0"], [["chess"]]) == 0
        assert 0 < fitted[0].score(NEW, [[*row, "new"] for row in NEW_LABELS]) < fitted[0].score(NEW, NEW_LABELS)


class TestBadInput:
    def fit(self, *data, **options):
        return MultiLabelClassifier(settings=FAST | {"features.min_documents": 1}).fit(*data, **options)

    def test_empty_texts_are_kept_and_counted(self):
        data = self.fit([*TEXTS, "", ""], [*LABELS, ["sport"], []]).metrics_["data"]
        assert data["train"]["documents"] + data["valid"]["documents"] == len(TEXTS) + 2
        assert data["train"]["empty_texts"] + data["valid"]["empty_texts"] == 2

    def test_only_empty_texts(self):
        with pytest.raises(DataError, match="Give more text"):
            self.fit([""] * 20, [["x"], ["y"]] * 10)

    def test_documents_without_labels_are_negatives_and_counted(self):
        data = self.fit(TEXTS, LABELS).metrics_["data"]
        assert data["train"]["without_labels"] + data["valid"]["without_labels"] == sum(not row for row in LABELS) > 0

    def test_not_one_label(self):
        with pytest.raises(DataError, match="no training document has a label"):
            self.fit(TEXTS, [[] for _ in TEXTS])
        with pytest.raises(DataError, match="no training document has a label"):
            self.fit(TEXTS, np.zeros((len(TEXTS), 3)))

    def test_a_label_only_in_validation(self):
        classifier = self.fit(TEXTS, LABELS, valid=(NEW, [[*row, "new"] for row in NEW_LABELS]))
        assert classifier.metrics_["data"]["valid"]["unseen_labels"] == {"new": 60}
        assert "new" not in classifier.classes_
        plain = self.fit(TEXTS, LABELS, valid=(NEW, NEW_LABELS)).metrics_
        assert without_nan(classifier.metrics_["values"]) == without_nan(plain["values"])

    def test_no_label_of_training_in_validation(self):
        with pytest.raises(DataError, match="validation documents: not one of 60"):
            self.fit(TEXTS, LABELS, valid=(NEW, [["new"]] * 60))

    def test_a_label_in_every_document(self):
        classifier = self.fit(TEXTS, [[*row, "all"] for row in LABELS])
        assert classifier.metrics_["data"]["labels_in_every_document"] == ["all"]
        assert all("all" in row for row in classifier.predict([*NEW, "", "quetzal"]))

    @pytest.mark.parametrize("loss", ["bce", "balanced", "softmax"])
    def test_a_single_label(self, loss):
        one = [[name for name in row if name == "sport"] for row in LABELS]
        classifier = MultiLabelClassifier(loss=loss, cap=6, settings=FAST).fit(TEXTS, one)
        assert classifier.classes_.tolist() == ["sport"]
        assert classifier.predict_proba(NEW).shape == (60, 1)
        if loss != "softmax":  # of one label it is 1, and teaches nothing
            assert classifier.predict(["sport0 sport1", "travel0"]) == [["sport"], []]

    def test_a_single_label_in_every_document(self):
        assert self.fit(TEXTS, [["x"]] * len(TEXTS)).predict(["sport0"]) == [["x"]]

    def test_too_few_documents_to_split(self):
        with pytest.raises(DataError, match="`valid=`"):
            self.fit(["a b", "c d"], [["x"], ["y"]])

    def test_an_id_twice(self, tmp_path):
        path = tmp_path / "docs.jsonl"
        path.write_text('{"id": 1, "text": "a", "labels": ["x"]}\n' * 2)
        with pytest.raises(DataError, match=r"line 2: id '1' is already at .* line 1"):
            self.fit(path)

    def test_a_group_on_both_sides(self):
        train, valid = (
            pl.DataFrame(
                {"text": texts, "labels": labels, "source": ["g"] + [f"{name}{i}" for i in range(len(texts) - 1)]}
            )
            for name, texts, labels in (("a", TEXTS, LABELS), ("b", NEW, NEW_LABELS))
        )
        with pytest.raises(LeakError, match="1 of its 60 groups are in training too, first 'g'"):
            MultiLabelClassifier(settings=FAST | {"data.group": "source"}).fit(train, valid=valid)

    def test_groups_halve_the_validation_documents_too(self):
        """Two groups in validation, each decided with what was tuned on the other; the same texts, the same labels."""
        frame = pl.DataFrame({"text": NEW * 2, "labels": NEW_LABELS * 2, "source": ["a"] * 60 + ["b"] * 60})
        classifier = MultiLabelClassifier(settings=FAST | {"data.group": "source"})
        train = pl.DataFrame({"text": TEXTS, "labels": LABELS, "source": [None] * len(TEXTS)})
        classifier.fit(train, valid=frame)
        assert classifier.metrics_["documents"] == 120
        assert classifier.metrics_["values"]["tuned.micro_f1"] > 0.8

    def test_texts_and_labels_of_different_lengths(self):
        with pytest.raises(DataError, match="different lengths"):
            self.fit(TEXTS, LABELS[:-1])

    def test_one_class_for_all_documents(self):
        with pytest.raises(DataError, match="one class 'sport'"):
            self.fit(TEXTS, ["sport"] * len(TEXTS))

    def test_texts_without_labels(self):
        with pytest.raises(DataError, match="is not a source of rows"):
            self.fit(TEXTS)

    @pytest.mark.parametrize("kind", ["encoder", "both"])
    def test_an_encoder_that_is_not_installed_costs_no_run(self, monkeypatch, fitted, tmp_path, kind):
        fitted[0].save(tmp_path / "run")
        monkeypatch.setattr(encoder, "importlib", SimpleNamespace(util=SimpleNamespace(find_spec=lambda name: None)))
        with pytest.raises(ConfigError, match=r"pip install 'hyperfocal\[encoder\]'"):
            MultiLabelClassifier(features=kind).fit(TEXTS, LABELS, out=tmp_path / "run", overwrite=True)
        MultiLabelClassifier.load(tmp_path / "run")

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"loss.cap": 0.5}, r"loss\.cap = 0\.5 is not allowed"),
            ({"loss.gama": 2}, "Did you mean 'gamma'"),
            ({"features.kind": "ngram"}, "one of auto, ngrams, encoder, both"),
        ],
    )
    def test_wrong_settings(self, settings, message):
        with pytest.raises(ConfigError, match=message):
            MultiLabelClassifier(settings=settings).fit(TEXTS, LABELS)


class TestTaxonomy:
    texts = ["wine bottle", "red wine bottle", "car wheel", "food plate"] * 12
    labels = [["Wine"], ["3"], ["Cars"], ["Food"]] * 12

    def fit(self, tree, **others):
        settings = FAST | {"data.taxonomy": tree, "train.epochs": 12} | {f"data.{k}": v for k, v in others.items()}
        return MultiLabelClassifier(settings=settings).fit(self.texts, self.labels)

    def test_labels_are_ids_and_scored_by_tier(self, tree):
        classifier = self.fit(tree)
        assert classifier.classes_.tolist() == ["1", "2", "3", "4"]
        tiers = classifier.metrics_["tiers"]
        assert {tier: row["labels"] for tier, row in tiers.items()} == {"1": 2, "2": 1, "3": 1}
        assert tiers["1"]["micro_f1"] == 1
        assert classifier.evaluate(Documents.from_lists(["car"], [["Cars"]]))["tiers"].keys() == {"1", "2", "3"}

    def test_parents_are_added_to_training(self, tree):
        plain, added = self.fit(tree), self.fit(tree, add_parents=True)
        assert plain.counts_.tolist() != added.counts_.tolist()
        one, two, three, _ = added.counts_.tolist()
        assert one > two > three
        assert added.predict(["red wine bottle"]) == [["1", "2", "3"]]
        assert plain.predict(["red wine bottle"]) == [["3"]]

    def test_predictions_bring_their_parents(self, tree):
        consistent = self.fit(tree, consistent=True)
        assert consistent.predict(["red wine bottle", "car wheel"]) == [["1", "2", "3"], ["4"]]
        frame = consistent.predict_documents(pl.DataFrame({"text": ["red wine bottle"]}))
        assert frame["labels"].to_list() == [["1", "2", "3"]]

    def test_a_label_that_the_taxonomy_does_not_have(self, tree):
        with pytest.raises(DataError, match="1 labels are not in the taxonomy, first 'Beer'"):
            MultiLabelClassifier(settings=FAST | {"data.taxonomy": tree}).fit(["a"] * 20, [["Beer"], ["4"]] * 10)
        with pytest.raises(DataError, match="first 'Beer'"):
            self.fit(tree).evaluate(Documents.from_lists(["a"], [["Beer"]]))

    def test_the_run_keeps_it(self, tree, tmp_path):
        classifier = self.fit(tree, consistent=True)
        classifier.save(tmp_path / "run")
        os.remove(tree)  # noqa: PTH107 - a str
        loaded = MultiLabelClassifier.load(tmp_path / "run")
        assert loaded.predict(["red wine bottle"]) == [["1", "2", "3"]]
        (tmp_path / "run" / "taxonomy.json").unlink()
        with pytest.raises(RunError, match=r"taxonomy\.json is missing"):
            MultiLabelClassifier.load(tmp_path / "run")


class TestKeeping:
    def test_a_loaded_classifier_is_the_saved_one(self, fitted):
        classifier, out = fitted
        loaded = MultiLabelClassifier.load(out)
        assert np.array_equal(loaded.decision_function(NEW), classifier.decision_function(NEW))
        assert loaded.predict(NEW) == classifier.predict(NEW)
        assert loaded.metrics_ == json.loads((out / "metrics.json").read_text())
        assert loaded.history_ == classifier.history_
        assert loaded.settings_ == classifier.settings_
        assert loaded.fingerprint_ == classifier.fingerprint_
        evaluated = [found.evaluate(Documents.from_lists(NEW, NEW_LABELS)) for found in (classifier, loaded)]
        assert evaluated[0]["values"] == pytest.approx(evaluated[1]["values"], nan_ok=True)

    def test_save_writes_what_fit_writes_but_the_checkpoint(self, fitted, tmp_path):
        fitted[0].save(tmp_path / "copy")
        names = {path.name for path in fitted[1].iterdir()}
        assert {path.name for path in (tmp_path / "copy").iterdir()} == names - {"checkpoints", "evidence.json"}

    def test_labels_that_look_like_numbers_stay_texts(self, tmp_path):
        labels = [[{"sport": "07", "travel": "7"}.get(name, name) for name in row] for row in LABELS]
        classifier = MultiLabelClassifier(settings=FAST).fit(TEXTS, labels, out=tmp_path / "run")
        loaded = MultiLabelClassifier.load(tmp_path / "run")
        assert [row["label"] for row in loaded.labels_] == [row["label"] for row in classifier.labels_]
        assert loaded.predict(NEW) == classifier.predict(NEW)

    PARTS = (
        "config.toml", "data.json", "model.safetensors", "vocabulary.json", "features.json", "thresholds.json",
        "labels.csv", "metrics.json",
    )  # fmt: skip

    @pytest.mark.parametrize("name", PARTS)
    @pytest.mark.parametrize("damage", ["missing", "truncated", "empty", "other"])
    def test_a_damaged_run_is_named(self, fitted, tmp_path, name, damage):
        fitted[0].save(tmp_path / "run")
        file = tmp_path / "run" / name
        whole = file.read_bytes()
        file.unlink()
        if damage == "other":
            file.write_text('{"settings": 3}')
        elif damage != "missing":
            file.write_bytes(whole[: len(whole) // 2 if damage == "truncated" else 0])
        if (name, damage) == ("metrics.json", "other"):
            return  # any JSON could be scores
        with pytest.raises(HyperfocalError, match=name.replace(".", r"\.")):
            MultiLabelClassifier.load(tmp_path / "run")

    @pytest.mark.parametrize("name", ["vocabulary.json", "features.json", "model.safetensors", "labels.csv"])
    def test_parts_of_different_runs_do_not_fit(self, fitted, tmp_path, name):
        shutil.copytree(fitted[1], tmp_path / "run")
        other = MultiLabelClassifier(settings=FAST).fit(TEXTS[:100], [[*row, "more"] for row in LABELS[:100]])
        other.save(tmp_path / "other")
        shutil.copy(tmp_path / "other" / name, tmp_path / "run" / name)
        with pytest.raises(RunError, match=r"is damaged|is not of the data that"):
            MultiLabelClassifier.load(tmp_path / "run")

    def test_features_of_another_run_of_the_same_labels_do_not_fit(self, fitted, tmp_path):
        shutil.copytree(fitted[1], tmp_path / "run")
        MultiLabelClassifier(settings=FAST | {"features.word_ngrams": 1}).fit(TEXTS, LABELS, out=tmp_path / "other")
        shutil.copy(tmp_path / "other" / "features.json", tmp_path / "run")
        with pytest.raises(RunError, match=r"model\.safetensors is damaged .*features\.json"):
            MultiLabelClassifier.load(tmp_path / "run")

    def test_a_run_of_the_other_job(self, fitted, tmp_path):
        with pytest.raises(RunError, match="is one of `classify`, not of `recommend`"):
            Recommender.load(fitted[1])
        log = make_challenges(users=60, challenges=30, seed=1).train
        Recommender(model="popularity").fit(log, out=tmp_path / "run")
        with pytest.raises(RunError, match="is one of `recommend`, not of `classify`"):
            MultiLabelClassifier.load(tmp_path / "run")
        with pytest.raises(RunError, match="is one of `recommend`, not of `classify`"):
            MultiLabelClassifier(settings=FAST).fit(TEXTS, LABELS, out=tmp_path / "run", resume=True)

    def test_no_run(self, tmp_path):
        with pytest.raises(RunError, match="no such folder"):
            MultiLabelClassifier.load(tmp_path / "run")
        with pytest.raises(RunError, match="Call fit"):
            MultiLabelClassifier().save(tmp_path / "run")

    def test_another_run_is_not_replaced_unasked(self, fitted):
        before = (fitted[1] / "model.safetensors").read_bytes()
        with pytest.raises(RunError, match="`overwrite=True`"):
            fitted[0].save(fitted[1])
        with pytest.raises(RunError, match="`overwrite=True`"):
            MultiLabelClassifier(settings=FAST).fit(TEXTS, LABELS, out=fitted[1])
        assert (fitted[1] / "model.safetensors").read_bytes() == before

    @pytest.mark.parametrize("texts", [["a"], [""] * len(TEXTS)], ids=["not as many", "all empty"])
    def test_bad_data_does_not_cost_the_run_that_is_replaced(self, fitted, tmp_path, texts):
        fitted[0].save(tmp_path / "run")
        with pytest.raises(DataError):
            MultiLabelClassifier(settings=FAST).fit(texts, LABELS, out=tmp_path / "run", overwrite=True)
        MultiLabelClassifier.load(tmp_path / "run")


RESUMED = FAST | {
    "train.checkpoint_seconds": 0, "train.batch_size": 2, "features.char_ngrams": 3, "head.input_dropout": 0.3
}  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Return the run folder of an uninterrupted training."""
    out = tmp_path_factory.mktemp("whole") / "run"
    MultiLabelClassifier(settings=RESUMED).fit(TEXTS, LABELS, out=out)
    return out


def press_ctrl_c():
    os.kill(os.getpid(), signal.SIGINT)


def die():
    raise KeyboardInterrupt


class TestResuming:
    def interrupted(self, out, *, at, stop=press_ctrl_c):
        """Fit until some number of looks at the progress."""
        looks = iter(range(1, 1000))

        def watch(progress, steps):
            if next(looks) == at:
                stop()

        with pytest.raises(KeyboardInterrupt):
            MultiLabelClassifier(settings=RESUMED).fit(TEXTS, LABELS, out=out, watch=on_step(watch))

    @pytest.mark.parametrize("stop", [press_ctrl_c, die])
    @pytest.mark.parametrize("at", [1, 2, 3, 4])
    def test_ends_with_the_same_bytes(self, tmp_path, whole, at, stop):
        self.interrupted(tmp_path / "run", at=at, stop=stop)
        MultiLabelClassifier().fit(TEXTS, LABELS, out=tmp_path / "run", resume=True)
        for name in ("model", "metrics", "thresholds", "config", "labels"):
            (path,) = whole.glob(f"{name}.*")
            assert (tmp_path / "run" / path.name).read_bytes() == path.read_bytes(), name

    def test_other_settings_are_refused_with_the_difference(self, tmp_path):
        self.interrupted(tmp_path / "run", at=2)
        with pytest.raises(ConfigError, match=r"loss\.gamma: 2\.0 -> 3\.0"):
            MultiLabelClassifier(gamma=3).fit(TEXTS, LABELS, out=tmp_path / "run", resume=True)

    @pytest.mark.parametrize("part", ["texts", "labels"])
    def test_other_data_are_refused(self, tmp_path, part):
        self.interrupted(tmp_path / "run", at=2)
        texts = [f"{text} more" for text in TEXTS] if part == "texts" else TEXTS
        labels = [[f"x{name}" for name in row] for row in LABELS] if part == "labels" else LABELS
        with pytest.raises(RunError, match="other data"):
            MultiLabelClassifier().fit(texts, labels, out=tmp_path / "run", resume=True)

    def test_an_unfinished_run_cannot_predict_and_says_why(self, tmp_path):
        self.interrupted(tmp_path / "run", at=2)
        with pytest.raises(RunError, match="`resume=True`"):
            MultiLabelClassifier.load(tmp_path / "run")

    def test_without_a_run_it_starts_one(self, tmp_path):
        MultiLabelClassifier(settings=FAST).fit(TEXTS, LABELS, out=tmp_path / "run", resume=True)
        assert MultiLabelClassifier.load(tmp_path / "run").settings_.train.epochs == 3


class TestScikitLearn:
    truth = matrix(LABELS)

    def test_clone_and_parameters(self):
        classifier = MultiLabelClassifier(loss="focal", gamma=3.0, cap=7, seed=4, settings={"train.epochs": 2})
        copy = clone(classifier)
        assert copy.get_params() == classifier.get_params()
        assert copy.settings is not classifier.settings
        assert copy.set_params(seed=5).seed == 5
        with pytest.raises(ValueError, match="Invalid parameter 'sed'"):
            copy.set_params(sed=5)

    @pytest.mark.parametrize("kind", [np.asarray, csr_matrix, pl.DataFrame])
    def test_from_a_matrix_to_one_of_the_same_width(self, fitted, kind):
        wide = np.concatenate([np.zeros((len(TEXTS), 2), dtype=np.int64), self.truth], 1)  # two labels of nothing
        classifier = MultiLabelClassifier(settings=FAST).fit(TEXTS, kind(wide))
        found = classifier.predict(NEW)
        assert type(found) is (csr_matrix if kind is csr_matrix else np.ndarray)
        assert found.dtype == np.int64
        found = csr_matrix(found)
        assert found.shape == (60, 8)
        names = [[NAMES[column - 2] for column in row.nonzero()[0]] for row in found.toarray()]
        assert names == [sorted(row, key=NAMES.index) for row in names]
        assert f1_score(matrix(NEW_LABELS), found[:, 2:], average="micro") > 0.8
        assert classifier.classes_.tolist() == list(range(8))

    def test_scores_have_the_same_width_and_the_prior_where_there_was_no_document(self):
        wide = np.insert(self.truth, 1, 0, axis=1)
        classifier = MultiLabelClassifier(settings=FAST).fit(TEXTS, wide)
        scores = classifier.decision_function(NEW)
        plain = MultiLabelClassifier(settings=FAST).fit(TEXTS, self.truth).decision_function(NEW)
        np.testing.assert_allclose(np.delete(scores, 1, axis=1), plain, atol=1e-6)
        prior = frequency_bias(torch.zeros(1), classifier.num_documents_).item()
        assert np.unique(scores[:, 1]) == pytest.approx(prior)
        assert prior < plain.mean()

    def test_a_matrix_of_more_than_ten_columns_keeps_their_order(self, tmp_path):
        """As texts "10" stands before "2"."""
        columns = np.arange(13)
        truth = np.eye(13, dtype=np.int64)[np.tile(columns, 12)]
        classifier = MultiLabelClassifier(settings=FAST | {"train.epochs": 30})
        classifier.fit([f"w{column} x{column}" for column in np.tile(columns, 12)], truth, out=tmp_path / "run")
        for found in (classifier, MultiLabelClassifier.load(tmp_path / "run")):
            texts = [f"w{column} x{column}" for column in columns]
            assert found.predict_proba(texts).argmax(1).tolist() == columns.tolist()
            assert found.predict(texts).argmax(1).tolist() == columns.tolist()

    def test_grid_search_over_a_list_of_texts(self):
        grid = {"gamma": [0.0, 2.0], "settings": [FAST | {"train.epochs": 1}, FAST | {"train.epochs": 5}]}
        search = GridSearchCV(MultiLabelClassifier(loss="focal"), grid, cv=2, error_score="raise").fit(
            TEXTS, self.truth
        )
        assert search.best_params_["settings"]["train.epochs"] == 5
        assert search.predict(NEW).shape == (60, 6)
        assert search.score(NEW, matrix(NEW_LABELS)) == pytest.approx(
            f1_score(matrix(NEW_LABELS), search.predict(NEW), average="micro")
        )

    @pytest.mark.parametrize("scoring", ["f1_macro", "average_precision", "roc_auc"])
    def test_its_scorers(self, scoring):
        search = GridSearchCV(MultiLabelClassifier(settings=FAST), {"cap": ["off"]}, cv=2, scoring=scoring)
        search.fit(TEXTS, self.truth)
        assert search.best_score_ > 0.4

    @pytest.mark.parametrize("method", ["predict", "predict_proba", "decision_function"])
    def test_cross_val_predict(self, method):
        found = cross_val_predict(MultiLabelClassifier(settings=FAST), TEXTS, self.truth, cv=2, method=method)
        assert found.shape == self.truth.shape
        if method == "predict":
            assert f1_score(self.truth, found, average="micro") > 0.6
        else:
            assert average_precision_score(self.truth, found, average="micro") > 0.7

    def test_the_last_step_of_a_pipeline(self):
        lower = FunctionTransformer(lambda texts: [text.replace("SPORT", "sport") for text in texts])
        steps = make_pipeline(lower, MultiLabelClassifier(settings=FAST | {"train.epochs": 20}))
        steps.fit(TEXTS, LABELS)
        assert steps.predict(["SPORT0 SPORT1"]) == [["sport"]]
        steps.set_params(multilabelclassifier__seed=3).fit(TEXTS, self.truth)
        assert steps.predict_proba(NEW).shape == (60, 6)
        assert steps.score(NEW, matrix(NEW_LABELS)) > 0.8

    def test_pickled_it_predicts_the_same(self, fitted):
        copy = pickle.loads(pickle.dumps(fitted[0]))
        assert np.array_equal(copy.decision_function(NEW), fitted[0].decision_function(NEW))

    def test_fitting_leaves_the_caller_random_numbers_alone(self):
        torch.manual_seed(0)
        expected = torch.rand(3)
        torch.manual_seed(0)
        MultiLabelClassifier(settings=FAST).fit(TEXTS, LABELS)
        assert torch.equal(torch.rand(3), expected)
