"""One label per document: a 1-D target, softmax losses, arg max and offsets, calibrated probabilities."""

import json
import logging
import subprocess
import sys

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from click.testing import CliRunner
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    balanced_accuracy_score,
    confusion_matrix,
    f1_score,
    log_loss,
)
from sklearn.model_selection import GridSearchCV, cross_val_predict, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from hyperfocal.classify.classifier import MultiLabelClassifier
from hyperfocal.classify.head import make_loss
from hyperfocal.classify.one_label import Classes, is_one_label, read_classes
from hyperfocal.classify.terminal import baseline_rows
from hyperfocal.cli.main import main
from hyperfocal.config.classify import TextLossSettings
from hyperfocal.errors import ConfigError, DataError
from hyperfocal.labels import SparseLabels
from hyperfocal.losses import capped_weights
from hyperfocal.metrics.one_label import log_loss as class_log_loss
from text_cases import FAST

SHARES = {"beer": 0.55, "red wine": 0.25, "rum, dark": 0.12, "tea": 0.08}


def corpus(number=320, *, seed=0, noise=0.2):
    """Return texts and one class each; some texts have no word of their class."""
    rng = np.random.default_rng(seed)
    classes = rng.choice(list(SHARES), p=list(SHARES.values()), size=number)
    fillers = rng.choice(["the", "a", "of", "and", "old", "new"], size=(number, 5))
    own = {name: f"word{place}" for place, name in enumerate(SHARES)}
    texts = [
        " ".join([*row, f"{own[name]}x{rng.integers(2)}" if rng.random() > noise else "nothing"])
        for row, name in zip(fillers, classes, strict=True)
    ]
    return texts, classes.tolist()


TEXTS, CLASSES = corpus()
NEW, NEW_CLASSES = corpus(200, seed=1)
NUMBERS = {name: 10 * place + 2 for place, name in enumerate(SHARES)}  # 2, 12, 22, 32
INTEGERS = [NUMBERS[name] for name in CLASSES]
TARGETS = {
    "list of texts": CLASSES,
    "array of texts": np.array(CLASSES),
    "objects": np.array(CLASSES, dtype=object),
    "pandas": pd.Series(CLASSES, index=range(1_000, 1_000 + len(CLASSES))),
    "categories": pd.Series(CLASSES, dtype="category"),
    "polars": pl.Series(CLASSES),
    "integers": np.array(INTEGERS),
    "small integers": np.array(INTEGERS, dtype=np.int8),
    "list of integers": INTEGERS,
    "floats": np.array(INTEGERS, dtype=float),
    "bools": np.array([name == "beer" for name in CLASSES]),
}


def classifier(**parameters):
    settings = FAST | {"train.sparse_learning_rate": 100.0} | parameters.pop("settings", {})
    return MultiLabelClassifier(settings=settings, **parameters)


@pytest.fixture(scope="module")
def fitted():
    return classifier().fit(TEXTS, CLASSES)


@pytest.fixture(scope="module")
def balanced():
    return classifier(decide="balanced").fit(TEXTS, CLASSES)


class TestTarget:
    @pytest.mark.parametrize("form", TARGETS)
    def test_every_form_gives_the_same_classes_in_its_type(self, form, fitted):
        target = TARGETS[form]
        own = classifier(settings={"train.epochs": 1}).fit(TEXTS, target)
        expected = np.unique(np.asarray(list(target)))
        assert own.classes_.tolist() == expected.tolist()
        assert own.classes_.dtype.kind == expected.dtype.kind
        predicted = own.predict(NEW)
        assert predicted.shape == (200,)
        assert set(predicted.tolist()) <= set(expected.tolist())
        assert own.predict_proba(NEW).argmax(1).tolist() == np.searchsorted(expected, predicted).tolist()

    def test_lists_and_matrices_are_no_such_target(self):
        assert not any(map(is_one_label, ([["a"], ["b"]], np.zeros((3, 2)), "text", {"a": 1}, [["a"], None], [])))

    def test_lists_of_one_label_stay_multi_label(self):
        many = classifier(settings={"train.epochs": 1}).fit(TEXTS, [[name] for name in CLASSES])
        assert many.settings_.loss.name == "bce"
        assert not many.settings_.data.single
        assert isinstance(many.predict(NEW[:1]), list)

    def test_the_defaults(self, fitted):
        settings = fitted.settings_
        assert (settings.data.single, settings.loss.name, settings.decide.rule) == (True, "softmax", "argmax")
        assert settings.features.label_texts == "names"

    def test_a_sigmoid_loss_can_be_chosen(self):
        own = classifier(loss="focal").fit(TEXTS, CLASSES)
        assert own.settings_.loss.name == "focal"
        assert own.predict_proba(NEW).sum(1) == pytest.approx(1, abs=1e-5)
        assert own.score(NEW, NEW_CLASSES) > 0.75

    @pytest.mark.parametrize(
        ("target", "message"),
        [
            (["beer"] * 320, "all documents have the one class 'beer'"),
            ([None, *CLASSES[1:]], "Input y contains None at row 0"),
            ([np.nan, *INTEGERS[1:]], "Input y contains NaN at row 0"),
            ([np.inf, *INTEGERS[1:]], "Input y contains infinity at row 0"),
            ([0.5, *INTEGERS[1:]], "row 0 is of type float and row 1 of type integer"),
            (np.array(INTEGERS) + 0.5, "continuous"),
            (["", *CLASSES[1:]], "row 0 is ''"),
            ([1, *CLASSES[1:]], "row 0 is of type integer and row 1 of type text"),
            (CLASSES[1:], "different lengths"),
        ],
    )
    def test_a_wrong_target_is_refused(self, target, message):
        with pytest.raises(DataError, match=message):
            classifier().fit(TEXTS, target)

    def test_a_class_with_one_document_is_logged_and_counted(self, caplog):
        with caplog.at_level(logging.WARNING, "hyperfocal"):
            own = classifier().fit([*TEXTS, "gin word9"], [*CLASSES, "gin"])
        assert "1 of 5 classes have one training document, such as 'gin'" in caplog.text
        assert own.metrics_["data"]["single"] == {"single_documents": 1, "left_out": 0}

    @pytest.mark.parametrize(
        "settings",
        [
            {"decide.rule": "per_label"},
            {"data.consistent": True},
            {"decide.rule": "balanced", "decide.objective": "f_beta"},
        ],
    )
    def test_settings_of_many_labels_are_refused(self, settings):
        with pytest.raises(ConfigError, match="one"):
            classifier(settings=settings).fit(TEXTS, CLASSES)

    def test_rules_of_one_label_are_refused_with_many(self):
        with pytest.raises(ConfigError, match="one label each"):
            classifier(decide="argmax").fit(TEXTS, [[name] for name in CLASSES])

    def test_an_indicator_matrix_is_refused_if_one_label_is_asked_for(self):
        with pytest.raises(DataError, match="not a matrix"):
            classifier(settings={"data.single": True}).fit(TEXTS, np.eye(4, dtype=int)[np.arange(320) % 4])

    def test_labels_of_another_form_cannot_be_scored(self, fitted):
        with pytest.raises(DataError, match="not a list of labels"):
            classifier(settings={"train.epochs": 1}).fit(TEXTS, [[name] for name in CLASSES]).score(NEW, NEW_CLASSES)
        numbers = classifier(settings={"train.epochs": 1}).fit(TEXTS, INTEGERS)
        with pytest.raises(DataError, match="of type integer and these of type text"):
            numbers.score(NEW, NEW_CLASSES)


class TestLoss:
    SCORES = torch.randn(7, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    TRUE = torch.tensor([0, 1, 3, 0, 2, 0, 1])
    LABELS = SparseLabels.from_csr(torch.arange(8), TRUE, num_labels=4)
    COUNTS = torch.tensor([50, 20, 9, 1])

    def loss(self, **settings):
        return make_loss(TextLossSettings(**settings), self.COUNTS, 80).from_logits(self.SCORES, self.LABELS)

    def test_softmax_is_cross_entropy(self):
        expected = torch.nn.functional.cross_entropy(self.SCORES, self.TRUE)
        assert self.loss(name="softmax").item() == pytest.approx(expected.item(), rel=1e-9)

    def test_logit_adjustment_adds_the_log_prior(self):
        prior = (self.COUNTS / 80).double().log()
        expected = torch.nn.functional.cross_entropy(self.SCORES + 0.7 * prior, self.TRUE)
        assert self.loss(name="softmax", adjust=0.7).item() == pytest.approx(expected.item(), rel=1e-6)

    def test_focal_and_capped_weights(self):
        p = self.SCORES.softmax(1).gather(1, self.TRUE[:, None])[:, 0]
        weights = capped_weights(self.COUNTS, cap=6.0).double()[self.TRUE]  # 1, 2.5, 5.6, 6
        expected = (weights * (1 - p) ** 2 * -p.log()).mean()
        assert self.loss(name="softmax_focal", gamma=2.0, cap=6.0).item() == pytest.approx(expected.item(), rel=1e-6)

    def test_the_adjustment_ranks_rare_classes_higher(self, fitted):
        adjusted = classifier(settings={"loss.adjust": 1.0}).fit(TEXTS, CLASSES)
        rare = adjusted.classes_.tolist().index("tea")
        unknown = ["nothing"]
        assert adjusted.predict_proba(unknown)[0, rare] > 1.5 * fitted.predict_proba(unknown)[0, rare]

    def test_training_starts_at_the_frequencies(self):
        from hyperfocal.classify.head import make_bias
        from hyperfocal.config.classify import ClassifySettings
        from hyperfocal.config.recipes import resolve

        for adjust in (0.0, 1.0, 0.4):
            settings = resolve(ClassifySettings, overrides={"data.single": True, "loss.adjust": adjust})
            seen = make_bias(settings, self.COUNTS, 80) + adjust * (self.COUNTS / 80).log()
            assert seen.softmax(0).tolist() == pytest.approx([50 / 80, 20 / 80, 9 / 80, 1 / 80], rel=1e-5)


class TestProbabilities:
    def test_rows_sum_to_one_and_predict_is_the_largest(self, fitted):
        probabilities = fitted.predict_proba(NEW)
        assert probabilities.shape == (200, 4)
        assert probabilities.sum(1) == pytest.approx(1, abs=1e-5)
        assert fitted.predict(NEW).tolist() == fitted.classes_[probabilities.argmax(1)].tolist()

    def test_they_are_the_softmax_of_the_decision_function(self, fitted):
        scaled = torch.from_numpy(fitted.decision_function(NEW)) / fitted.decisions_.temperature
        assert fitted.predict_proba(NEW) == pytest.approx(scaled.softmax(1).numpy(), abs=1e-6)

    def test_two_classes_have_one_score(self):
        two = [name == "beer" for name in CLASSES]
        own = classifier().fit(TEXTS, two)
        scores = own.decision_function(NEW)
        assert scores.shape == (200,)
        assert own.predict(NEW).tolist() == (scores > 0).tolist()
        expected = 1 / (1 + np.exp(-scores / own.decisions_.temperature))
        assert own.predict_proba(NEW)[:, 1] == pytest.approx(expected, abs=1e-5)

    def test_the_temperature_mends_overconfidence(self):
        sure = classifier(settings={"train.epochs": 8, "train.sparse_learning_rate": 2_000.0}).fit(TEXTS, CLASSES)
        assert sure.decisions_.temperature > 2
        values = sure.evaluate((NEW, NEW_CLASSES))["values"]  # the temperature has not seen them
        assert values["log_loss"] < 0.5 * values["log_loss_before"]
        assert values["calibration_error"] < values["calibration_error_before"]

    def test_rare_probabilities_can_be_left_out(self, fitted):
        sparse = fitted.predict_proba(NEW, at_least=0.5)
        assert (sparse.toarray() > 0).sum() == sparse.nnz <= 200


class TestDecisions:
    def test_offsets_give_a_rare_class_the_words_that_it_shares_with_a_frequent_one(self):
        """Of the texts with "leaf", 10 in 16 are beer; but nearly all of tea have it, and few of beer."""
        rng = np.random.default_rng(0)

        def leaves(number):
            classes = rng.choice(["beer", "tea"], p=[0.92, 0.08], size=number)
            words = [
                "leaf" if rng.random() < {"beer": 0.12, "tea": 0.9}[name] else rng.choice(["one", "two", "three"])
                for name in classes
            ]
            return [f"{word} {rng.choice(['old', 'new'])}" for word in words], classes

        data, (others, truth) = leaves(1_500), leaves(1_000)
        plain = classifier().fit(*data)
        tuned = classifier(decide="balanced", settings={"decide.objective": "recall"}).fit(*data)
        assert balanced_accuracy_score(truth, plain.predict(others)) < 0.6
        assert balanced_accuracy_score(truth, tuned.predict(others)) > 0.8

    def test_scores_less_offsets_decide(self, balanced):
        scores = balanced.decision_function(NEW)
        assert balanced.predict(NEW).tolist() == balanced.classes_[scores.argmax(1)].tolist()
        assert balanced.decisions_.thresholds.abs().max() > 0

    def test_both_decisions_are_scored_whatever_the_rule(self, fitted, balanced):
        ours, theirs = fitted.metrics_["values"], balanced.metrics_["values"]
        assert ours == pytest.approx(theirs, nan_ok=True)
        assert fitted.evaluate((NEW, NEW_CLASSES))["values"]["tuned.accuracy"] == accuracy_score(
            NEW_CLASSES, balanced.predict(NEW)
        )


class TestMetrics:
    def test_they_are_those_of_scikit_learn(self, fitted):
        values = fitted.evaluate((NEW, NEW_CLASSES))["values"]
        predicted, probabilities = fitted.predict(NEW), fitted.predict_proba(NEW)
        assert values["argmax.accuracy"] == accuracy_score(NEW_CLASSES, predicted)
        assert values["argmax.balanced_accuracy"] == pytest.approx(balanced_accuracy_score(NEW_CLASSES, predicted))
        assert values["argmax.macro_f1"] == pytest.approx(f1_score(NEW_CLASSES, predicted, average="macro"))
        assert values["log_loss"] == pytest.approx(log_loss(NEW_CLASSES, probabilities), rel=1e-5)
        hits = np.array(NEW_CLASSES)[:, None] == fitted.classes_
        assert values["macro_ap"] == pytest.approx(average_precision_score(hits, probabilities), abs=1e-5)

    def test_the_confusion_table(self, fitted):
        confusion = fitted.evaluate((NEW, NEW_CLASSES))["confusion"]
        expected = confusion_matrix(NEW_CLASSES, fitted.predict(NEW), labels=confusion["classes"])
        assert confusion["table"] == expected.tolist()
        off = expected - np.diag(np.diag(expected))
        assert confusion["pairs"][0]["documents"] == off.max()

    def test_score_is_accuracy(self, fitted):
        assert fitted.score(NEW, NEW_CLASSES) == accuracy_score(NEW_CLASSES, fitted.predict(NEW))

    def test_a_class_that_training_never_saw_is_wrong(self, fitted):
        unseen = ["gin", *NEW_CLASSES[1:]]
        assert fitted.score(NEW, unseen) == accuracy_score(unseen, fitted.predict(NEW))
        metrics = fitted.evaluate((NEW, unseen))
        assert metrics["values"]["argmax.accuracy"] == accuracy_score(unseen, fitted.predict(NEW))
        assert metrics["data"]["unseen_labels"] == {"gin": 1}

    def test_intervals_contain_the_values(self, fitted):
        metrics = fitted.metrics_
        for name in ("argmax.accuracy", "tuned.balanced_accuracy", "argmax.macro_f1", "macro_ap"):
            interval = metrics["intervals"][name]
            assert interval["low"] < metrics["values"][name] < interval["high"]

    def test_as_good_as_logistic_regression(self):
        """Checks sanity against a peer, on the same n-grams."""
        own = classifier(settings={"train.epochs": 20}).fit(TEXTS, CLASSES)
        peer = make_pipeline(TfidfVectorizer(ngram_range=(1, 2)), LogisticRegression(C=10)).fit(TEXTS, CLASSES)
        assert own.score(NEW, NEW_CLASSES) >= peer.score(NEW, NEW_CLASSES) - 0.02
        assert log_loss(NEW_CLASSES, own.predict_proba(NEW)) <= 1.2 * log_loss(NEW_CLASSES, peer.predict_proba(NEW))


class TestScikitLearn:
    def test_cross_validation(self):
        scores = cross_val_score(classifier(), TEXTS, INTEGERS, cv=3, error_score="raise")
        assert (scores > 0.7).all()
        predicted = cross_val_predict(classifier(), TEXTS, CLASSES, cv=3, method="predict_proba")
        assert log_loss(CLASSES, predicted) < 0.9

    @pytest.mark.parametrize("scoring", ["neg_log_loss", "f1_macro", "roc_auc_ovr", "balanced_accuracy"])
    def test_its_metrics(self, scoring):
        scores = cross_val_score(classifier(), TEXTS, CLASSES, cv=2, scoring=scoring, error_score="raise")
        assert np.isfinite(scores).all()

    def test_a_search_in_a_pipeline(self):
        lower = FunctionTransformer(lambda texts: [text.lower() for text in texts])
        pipeline = make_pipeline(lower, classifier())
        grid = {"multilabelclassifier__loss": ["softmax", "softmax_focal"]}
        search = GridSearchCV(clone(pipeline), grid, cv=2, error_score="raise").fit(TEXTS, CLASSES)
        assert search.score(NEW, NEW_CLASSES) > 0.75

    def test_calibration(self):
        calibrated = CalibratedClassifierCV(classifier(), cv=2).fit(np.array(TEXTS), np.array(CLASSES))
        assert calibrated.predict_proba(np.array(NEW)).sum(1) == pytest.approx(1)


class TestRun:
    def test_it_is_loaded_as_it_was(self, tmp_path, balanced):
        balanced.save(tmp_path / "run")
        loaded = MultiLabelClassifier.load(tmp_path / "run")
        assert (loaded.predict_proba(NEW) == balanced.predict_proba(NEW)).all()
        assert (loaded.predict(NEW) == balanced.predict(NEW)).all()
        assert loaded.decisions_.one == "balanced"

    def test_integers_come_back(self, tmp_path):
        own = classifier(settings={"train.epochs": 1}).fit(TEXTS, INTEGERS, out=tmp_path / "run")
        loaded = MultiLabelClassifier.load(tmp_path / "run")
        assert loaded.classes_.tolist() == [2, 12, 22, 32]  # not in the order of their texts
        assert loaded.predict(NEW).dtype.kind == "i"
        assert (loaded.predict_proba(NEW) == own.predict_proba(NEW)).all()

    @pytest.mark.parametrize(("key", "value"), [("one", "best"), ("temperature", 0), ("temperature", "x")])
    def test_damaged_decisions_are_refused(self, tmp_path, fitted, key, value):
        from hyperfocal.thresholds import Decisions

        facts = fitted.decisions_.to_json(fitted.vocabulary_.names) | {key: value}
        with pytest.raises(DataError):
            Decisions.from_json(facts, fitted.vocabulary_.names)


class TestCommandLine:
    @pytest.fixture
    def file(self, tmp_path):
        path = tmp_path / "train.csv"
        pl.DataFrame({"id": range(320), "text": TEXTS, "label": CLASSES}).write_csv(path)
        return path

    def run(self, *words):
        return CliRunner().invoke(main, [str(word) for word in words])

    def fit(self, file, out, *words):
        options = ("--single", "--set", "train.epochs=2", "--set", "features.kind=ngrams", "--set", "train.threads=1")
        return self.run("classify", "fit", file, "--out", out, *options, *words)

    def test_fit_predict_evaluate_report(self, file, tmp_path):
        run = tmp_path / "run"
        result = self.fit(file, run, "--decide", "balanced")
        assert result.exit_code == 0, result.output
        assert "balanced acc." in result.output
        page = (run / "report.html").read_text()
        assert "Documents by true class and decided class" in page
        pl.DataFrame({"id": range(200), "text": NEW}).write_csv(tmp_path / "new.csv")
        assert (
            self.run("classify", "predict", run, tmp_path / "new.csv", "--out", tmp_path / "out.jsonl").exit_code == 0
        )
        rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
        assert [row["label"] for row in rows] == MultiLabelClassifier.load(run).predict(NEW).tolist()
        assert sum(rows[0]["scores"].values()) == pytest.approx(1, abs=1e-4)
        result = self.run("classify", "evaluate", run, file, "--json")
        assert json.loads(result.stdout)["confusion"]["classes"] == sorted(SHARES)

    def test_commas_and_spaces_are_part_of_a_label(self, file, tmp_path):
        self.fit(file, tmp_path / "run")
        assert MultiLabelClassifier.load(tmp_path / "run").classes_.tolist() == sorted(SHARES)

    def test_a_row_with_two_labels(self, file, tmp_path):
        pl.DataFrame({"text": TEXTS, "label": ["beer|tea", *CLASSES[1:]]}).write_csv(file)
        result = self.fit(file, tmp_path / "run")
        assert result.exit_code == 2
        assert f"{file} line 2: 2 labels (beer, tea)" in result.output
        assert not (tmp_path / "run").exists()

    def test_rows_without_a_label_are_counted_and_left_out(self, file, tmp_path):
        pl.DataFrame({"text": TEXTS, "label": [None, *CLASSES[1:]]}).write_csv(file)
        result = self.fit(file, tmp_path / "run")
        assert "1 document without a label; left out." in result.output

    def test_a_grid(self, file, tmp_path):
        options = ("--single", "--set", "train.epochs=1", "--set", "features.kind=ngrams", "--set", "train.threads=1")
        axes = ("--caps", "none,4", "--gammas", "none,2", "--seeds", "2")
        result = self.run("classify", "grid", file, "--out", tmp_path / "grid", *options, *axes)
        assert result.exit_code == 0, result.output
        winner = MultiLabelClassifier.load(tmp_path / "grid" / "winner")
        assert winner.settings_.loss.name in ("softmax", "softmax_focal")
        assert winner.predict(NEW).shape == (200,)
        assert "by arg max" in (tmp_path / "grid" / "report.html").read_text()


class TestExport:
    @pytest.mark.parametrize("rule", ["argmax", "balanced"])
    def test_the_exported_program_decides_the_same(self, rule, tmp_path, fitted, balanced):
        pytest.importorskip("onnxruntime")
        from hyperfocal.export.export import export_onnx

        own = {"argmax": fitted, "balanced": balanced}[rule]
        own.save(tmp_path / "run")
        export_onnx(tmp_path / "run", tmp_path / "export")
        lines = "".join(json.dumps(text) + "\n" for text in NEW)
        program = [sys.executable, str(tmp_path / "export" / "predict.py")]
        answered = subprocess.run(program, input=lines, capture_output=True, text=True, check=True, timeout=300)
        rows = [json.loads(line) for line in answered.stdout.splitlines()]
        assert [row["label"] for row in rows] == own.predict(NEW).tolist()
        shown = [[row["scores"][name] for name in own.classes_] for row in rows]
        assert np.array(shown) == pytest.approx(own.predict_proba(NEW), abs=1e-4)


class TestService:
    @pytest.fixture
    def predictor(self, tmp_path, balanced):
        from hyperfocal.classify.service import load_classify

        balanced.save(tmp_path / "run")
        return load_classify(tmp_path / "run", "v")

    def test_it_answers_one_label(self, predictor, balanced):
        from hyperfocal.serve.messages import ClassifyRequest

        (answer,) = predictor.answer([ClassifyRequest(texts=NEW[:20], explain=True)])
        assert [row.labels for row in answer.answers] == [[name] for name in balanced.predict(NEW[:20])]
        assert [sum(one.score for one in row.scores) for row in answer.answers] == pytest.approx([1] * 20, abs=1e-5)
        assert {one.threshold for row in answer.answers for one in row.scores} == {None}
        assert predictor.card()["single"] is True

    def test_another_threshold_is_refused(self, predictor):
        from hyperfocal.serve.messages import ClassifyRequest, Refusal

        first, second = predictor.answer([ClassifyRequest(texts=["a"], threshold=0.3), ClassifyRequest(texts=["a"])])
        assert isinstance(first, Refusal)
        assert first.status == 422
        assert len(second.answers[0].labels) == 1


class TestFilesAndNumbers:
    def test_evaluate_names_the_line_of_several_labels(self, tmp_path):
        path = tmp_path / "new.jsonl"
        rows = [{"text": TEXTS[0], "labels": [CLASSES[0]]}, {"text": "x", "labels": ["beer", "tea"]}]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        frame = {"text": TEXTS, "labels": [[name] for name in CLASSES]}
        model = MultiLabelClassifier(settings=FAST | {"data.single": True}).fit(frame)
        with pytest.raises(DataError, match=r"new\.jsonl line 2: 2 labels"):
            model.evaluate(path)

    def test_baselines_are_scored_by_the_rule_of_the_run(self):
        model = classifier(settings=FAST | {"train.baselines": "all"}).fit(TEXTS, CLASSES)
        columns, rows = baseline_rows(model.metrics_)
        assert columns == ["macro AP", "P@1", "accuracy", "balanced accuracy"]
        assert rows["this model"][2] == model.metrics_["values"]["argmax.accuracy"]
        for values in rows.values():
            assert values[2] == pytest.approx(values[1])  # by arg max, the accuracy is the precision at 1
        assert rows["prior"][3] == 0.25  # the most frequent of four classes

    def test_a_perfect_probability_has_a_loss_of_zero_without_a_sign(self):
        loss = class_log_loss(torch.tensor([[1.0, 0.0]]), SparseLabels.from_lists([[0]], num_labels=2))
        assert f"{loss:.3f}" == "0.000"

    def test_integers_beyond_64_bits(self):
        labels = [2**63 if name == "beer" else 1 for name in CLASSES]
        with pytest.raises(DataError, match="is 9223372036854775808, which no 64-bit integer holds"):
            classifier().fit(TEXTS, labels)
        assert read_classes([2**63 - 1, -(2**63)]) == ([[str(2**63 - 1)], [str(-(2**63))]], "integer")

    @pytest.mark.parametrize(
        ("kind", "names"), [("integer", ["1", str(2**63)]), ("integer", ["1", "01"]), ("float", ["x"])]
    )
    def test_classes_that_a_damaged_run_names(self, kind, names):
        with pytest.raises(DataError, match=f"classes of the kind {kind} cannot have names such as"):
            Classes.from_json(kind, names)
