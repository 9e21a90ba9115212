"""Documents with weights: in training, decisions and scores, from `sample_weight` and from a column."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from scipy.sparse import csr_matrix
from sklearn import config_context
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from command_cases import TINY, done, refused, rows, write
from hyperfocal.classify.baselines import score_knn, score_prior, score_svm
from hyperfocal.classify.classifier import MultiLabelClassifier
from hyperfocal.classify.combination import fit_weights
from hyperfocal.classify.counted_loss import CountedLoss, training_counts
from hyperfocal.classify.opinions import Shares
from hyperfocal.classify.prepare import from_lists, from_pair, prepare
from hyperfocal.config.classify import ClassifySettings, TextDataSettings
from hyperfocal.counted_labels import counted, weights_of
from hyperfocal.data.documents import Documents, as_documents
from hyperfocal.data.inspection import inspect
from hyperfocal.errors import DataError, RunError
from hyperfocal.labels import SparseLabels
from hyperfocal.models.text_head import Features
from text_cases import FAST, corpus

TEXTS, LABELS = corpus(160)
WEIGHTS = np.random.default_rng(0).integers(0, 4, 160)
# Without chance: no split, no dropout, one batch, no scaling.
EXACT = {
    "train.epochs": 4, "train.threads": 1, "train.batch_size": 512, "train.baselines": "off", "head.name": "linear",
    "head.dropout": 0.0, "data.scaling": "none", "decide.rule": "global",
}  # fmt: skip
RNG = np.random.default_rng(1)
X, VALID_X = RNG.normal(size=(40, 6)), RNG.normal(size=(30, 6))
Y, VALID_Y = (np.stack([each[:, 0] > 0, each[:, 1] > 0.5, each[:, 2] > 1], 1).astype(int) for each in (X, VALID_X))
TIMES, VALID_TIMES = RNG.integers(0, 4, 40), RNG.integers(0, 4, 30)


def classifier(**settings):
    return MultiLabelClassifier(settings=FAST | {"train.epochs": 1} | settings)


def both(y, valid_y, **settings):
    """Return the fit with weights, and the fit with repeated documents."""
    model = MultiLabelClassifier(settings=EXACT | settings)
    repeated, valid = (np.repeat(np.arange(len(times)), times) for times in (TIMES, VALID_TIMES))
    weighted = model.fit(X, y, TIMES, valid=(VALID_X, valid_y, VALID_TIMES))
    other = MultiLabelClassifier(settings=EXACT | settings)
    return weighted, other.fit(X[repeated], y[repeated], valid=(VALID_X[valid], valid_y[valid]))


class TestWeightsAreRepetitions:
    @pytest.mark.parametrize("reduction", ["batch", "positives", "mean", "sum"])
    def test_of_each_divisor(self, reduction):
        rate = 1e-3 if reduction == "sum" else 0.05
        ours, theirs = both(Y, VALID_Y, **{"loss.reduction": reduction, "train.learning_rate": rate})
        np.testing.assert_allclose(ours.decision_function(X), theirs.decision_function(X), atol=2e-4)
        np.testing.assert_allclose(ours.decisions_.thresholds, theirs.decisions_.thresholds, atol=2e-4)
        assert (ours.predict(X) == theirs.predict(X)).all()
        for name, value in theirs.metrics_["values"].items():
            if (
                name.startswith(("half.m", "macro_ap", "micro_ap", "precision", "ndcg", "calib"))
                and "medium" not in name
            ):
                assert ours.metrics_["values"][name] == pytest.approx(value, abs=1e-4), name

    @pytest.mark.parametrize(
        "loss",
        [
            {"loss.name": "focal", "loss.cap": 3.0},
            {"loss.name": "asymmetric"},
            {"loss.name": "balanced"},
            {"loss.name": "softmax"},
            {"loss.cap": "none", "loss.weights": "balanced"},
        ],
    )
    def test_of_each_loss(self, loss):
        ours, theirs = both(Y, VALID_Y, **loss)
        np.testing.assert_allclose(ours.decision_function(X), theirs.decision_function(X), atol=2e-4)

    @pytest.mark.parametrize("adjust", [0.0, 1.0])
    def test_of_classes(self, adjust):
        y, valid_y = Y.sum(1), VALID_Y.sum(1)
        ours, theirs = both(y, valid_y, **{"loss.adjust": adjust, "decide.rule": "balanced"})
        np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), atol=2e-4)
        assert (ours.predict(X) == theirs.predict(X)).all()
        for name in ("argmax.accuracy", "argmax.balanced_accuracy", "log_loss_before"):
            assert ours.metrics_["values"][name] == pytest.approx(theirs.metrics_["values"][name], abs=1e-4)

    def test_they_change_what_is_learnt(self):
        ours, plain = (MultiLabelClassifier(settings=EXACT) for _ in range(2))
        ours.fit(X, Y, TIMES, valid=(VALID_X, VALID_Y))
        plain.fit(X, Y, valid=(VALID_X, VALID_Y))
        assert np.abs(ours.decision_function(X) - plain.decision_function(X)).max() > 0.01

    def test_equal_weights_change_nothing(self):
        """Fractions say only how documents compare."""
        ours, plain = (MultiLabelClassifier(settings=EXACT) for _ in range(2))
        ours.fit(X, Y, np.full(40, 0.025), valid=(VALID_X, VALID_Y, np.full(30, 1e-3)))
        plain.fit(X, Y, valid=(VALID_X, VALID_Y))
        np.testing.assert_allclose(ours.decision_function(X), plain.decision_function(X), atol=1e-4)

    def test_of_the_sum_over_batches(self):
        """The gradients of small batches are those of the weighted sum, also of a batch with one document."""
        labels = counted(
            SparseLabels.from_lists([[0], [0, 1], []], num_labels=2), torch.tensor([4.0, 1, 1]).double(), None
        )
        losses = torch.tensor([0.5, 0.25, 0.125])
        loss = CountedLoss.of(labels, "batch")
        each = [loss.portion(losses[[row]], labels.select(torch.tensor([row]))) for row in range(3)]
        assert [float(part.loss) for part in each] == [0.5 * 4 / 2, 0.25 / 2, 0.125 / 2]  # 2: the mean weight
        whole = loss.portion(losses, labels)
        assert float(whole.loss) == pytest.approx((0.5 * 4 + 0.25 + 0.125) / 6)
        assert sum(float(part.loss) * part.divisor for part in each) == pytest.approx(float(whole.loss) * whole.divisor)

    def test_counts(self):
        labels = SparseLabels.from_lists([[0], [0, 1], []], num_labels=2)
        counts, number = training_counts(counted(labels, torch.tensor([4.0, 1.5, 1]).double(), None))
        assert (counts.tolist(), number) == ([5.5, 1.5], 6.5)

    def test_of_opinions(self):
        generator = torch.Generator().manual_seed(0)
        logits, truth = torch.randn(50, 3, generator=generator), torch.rand(50, 3, generator=generator) < 0.3
        shares = (torch.rand(50, 3, generator=generator) < 0.4).float()
        times = torch.randint(1, 5, (50,), generator=generator)
        at = torch.arange(50).repeat_interleave(times)
        weighted = counted(SparseLabels.from_dense(truth), times.double(), None)
        ours = fit_weights(logits, {"text": Shares(csr_matrix(shares.numpy()))}, weighted, power=0.5)
        others = {"text": Shares(csr_matrix(shares[at].numpy()))}
        theirs = fit_weights(logits[at], others, SparseLabels.from_dense(truth[at]), power=0.5)
        assert ours == pytest.approx(theirs, rel=1e-4)

    @pytest.mark.parametrize("score", [score_prior, score_svm])
    def test_of_baselines(self, score):
        at = np.repeat(np.arange(40), TIMES + 1)
        dense, labels = torch.from_numpy(X).float(), SparseLabels.from_dense(torch.from_numpy(Y))
        others = Features(None, torch.from_numpy(VALID_X).float())
        ours = score(Features(None, dense), counted(labels, torch.from_numpy(TIMES + 1.0), None), others)
        theirs = score(Features(None, dense[at]), labels.select(torch.from_numpy(at)), others)
        assert torch.allclose(ours, theirs, atol=1e-2)

    def test_of_nearest_neighbors(self):
        dense = Features(None, torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
        labels = counted(SparseLabels.from_lists([[0], [1]], num_labels=2), torch.tensor([3.0, 1.0]).double(), None)
        assert score_knn(dense, labels, dense).tolist() == [[3, 0], [0, 1]]  # cosines are 1 and 0


class TestZero:
    def test_a_document_of_weight_0_is_left_out(self):
        """Its label is unknown, its text gives no n-gram, and the split is that without it."""
        texts, labels = [*TEXTS, "unheard words here", "unheard words again"], [*LABELS, ["never"], ["never"]]
        ours = classifier().fit(texts, labels, [1] * 160 + [0, 0])
        plain = classifier().fit(TEXTS, LABELS, [1] * 160)
        assert ours.classes_.tolist() == plain.classes_.tolist()
        assert (ours.decision_function(TEXTS) == plain.decision_function(TEXTS)).all()
        assert ours.fingerprint_ == plain.fingerprint_
        assert ours.metrics_["data"]["zero_weights"] == 2
        ours.update(*corpus(40, seed=9))
        assert ours.metrics_["data"]["zero_weights"] == 2  # an update keeps the count of the fit

    def test_its_score(self):
        fitted = classifier().fit(TEXTS, LABELS)
        half = [1] * 80 + [0] * 80
        assert fitted.score(TEXTS, LABELS, half) == fitted.score(TEXTS[:80], LABELS[:80])
        assert fitted.evaluate((TEXTS, LABELS, half))["documents"] == 80


class TestScore:
    def test_micro_f1(self):
        fitted = classifier().fit(TEXTS, LABELS)
        times = [text for text, number in zip(TEXTS, WEIGHTS, strict=True) for _ in range(number)]
        labels = [row for row, number in zip(LABELS, WEIGHTS, strict=True) for _ in range(number)]
        assert fitted.score(TEXTS, LABELS, WEIGHTS) == pytest.approx(fitted.score(times, labels))
        frame = pd.DataFrame({"text": TEXTS, "labels": LABELS})
        assert fitted.score(frame, sample_weight=WEIGHTS) == pytest.approx(fitted.score(times, labels))
        ours, theirs = fitted.evaluate((TEXTS, LABELS, WEIGHTS)), fitted.evaluate((times, labels))
        for name in ("macro_ap", "tuned.micro_f1", "tuned.macro_f1", "precision@1"):
            assert ours["values"][name] == pytest.approx(theirs["values"][name])

    def test_accuracy(self):
        y = np.asarray(["a", "b"])[Y[:, 0]]
        fitted = MultiLabelClassifier(settings=EXACT | {"decide.rule": "argmax"}).fit(X, y, valid=(VALID_X, y[:30]))
        expected = ((fitted.predict(X) == y) * TIMES).sum() / TIMES.sum()
        assert fitted.score(X, y, TIMES) == pytest.approx(expected)


@pytest.fixture(scope="module")
def fitted():
    return classifier().fit(TEXTS, LABELS)


class TestRefused:
    @pytest.mark.parametrize(
        ("weights", "message"),
        [
            ([-1, *[1] * 159], "number 0 is -1. Negative values are not allowed"),
            ([float("nan"), *[1] * 159], "sample_weight contains NaN"),
            ([float("inf"), *[1] * 159], "sample_weight contains infinity"),
            ([0] * 160, "at least one non-zero number, and all are zero"),
            ([1] * 159, r"has the shape \(159,\), and there are 160 documents"),
            ([[1]] * 160, r"has the shape \(160, 1\)"),
            (["heavy"] * 160, "sample_weight"),
        ],
    )
    @pytest.mark.parametrize("call", ["fit", "score"])
    def test_sample_weight(self, fitted, weights, message, call):
        model = classifier() if call == "fit" else fitted
        with pytest.raises(DataError, match=message):
            getattr(model, call)(TEXTS, LABELS, weights)

    @pytest.mark.parametrize(
        ("value", "message"),
        [(-2.5, "weight -2.5 in column 'heavy'"), (None, "weight None"), (float("inf"), "weight inf")],
    )
    def test_a_column(self, tmp_path, value, message):
        frame = pl.DataFrame({"text": TEXTS, "labels": LABELS, "heavy": [1.0] * 16 + [value] + [1.0] * 143})
        with pytest.raises(DataError, match=f"row 16: {message}"):
            MultiLabelClassifier(weight="heavy").fit(frame)

    def test_a_column_of_zeros_and_none_at_all(self):
        frame = pl.DataFrame({"text": TEXTS, "labels": LABELS, "heavy": [0] * 160})
        with pytest.raises(DataError, match="training documents: sample weights must contain at least one non-zero"):
            MultiLabelClassifier(weight="heavy").fit(frame)
        with pytest.raises(DataError, match=r"no column 'heavi' .*[Dd]id you mean 'heavy'"):
            MultiLabelClassifier(weight="heavi").fit(frame)
        with pytest.raises(DataError, match="cannot be both `weight=` and `text=`"):
            MultiLabelClassifier(weight="text").fit(frame)

    def test_a_column_of_lists(self):
        with pytest.raises(DataError, match=r"lists or a matrix, which have no such column\. Give `sample_weight=`"):
            MultiLabelClassifier(weight="heavy").fit(TEXTS, LABELS)

    def test_weights_of_a_file(self, tmp_path):
        write(tmp_path / "train.jsonl", rows())
        with pytest.raises(DataError, match="Name a column of the file with `weight=`"):
            MultiLabelClassifier().fit(tmp_path / "train.jsonl", sample_weight=[1] * 120)

    def test_weights_twice(self):
        frame = pl.DataFrame({"text": TEXTS, "labels": LABELS, "heavy": [1] * 160})
        with pytest.raises(DataError, match="`sample_weight=` and `weight=` both give weights"):
            MultiLabelClassifier(weight="heavy").fit(frame, sample_weight=[1] * 160)


class TestRuns:
    def test_a_column_gives_what_sample_weight_gives(self):
        frame = pl.DataFrame({"text": TEXTS, "labels": LABELS, "heavy": WEIGHTS})
        ours = MultiLabelClassifier(weight="heavy", settings=FAST | {"train.epochs": 1}).fit(frame)
        theirs = classifier().fit(TEXTS, LABELS, WEIGHTS)
        assert (ours.decision_function(TEXTS) == theirs.decision_function(TEXTS)).all()
        assert ours.fingerprint_ == theirs.fingerprint_ != classifier().fit(TEXTS, LABELS).fingerprint_
        expected = theirs.evaluate((TEXTS, LABELS, WEIGHTS))["values"]
        assert ours.evaluate(frame)["values"] == pytest.approx(expected, nan_ok=True)
        without = frame.drop("heavy")  # weights are asked of training documents alone
        assert ours.evaluate(without)["documents"] == 160
        assert ours.predict_documents(without.drop("labels")).height == 160

    def test_validation_documents_need_no_weights(self):
        frame = pl.DataFrame({"text": TEXTS, "labels": LABELS, "heavy": WEIGHTS})
        model = MultiLabelClassifier(weight="heavy", settings=FAST)
        assert model.fit(frame, valid=frame.drop("heavy")).metrics_["documents"] == 160
        assert model.fit(frame, valid=frame).metrics_["documents"] == int((WEIGHTS > 0).sum())

    def test_documents_of_weight_0_are_predicted(self, fitted):
        frame = pl.DataFrame({"text": TEXTS, "labels": LABELS, "heavy": WEIGHTS})
        documents = as_documents(frame, TextDataSettings(weight="heavy"))
        assert fitted.predict_documents(documents).height == len(fitted.predict(documents)) == 160

    def test_streamed(self, tmp_path):
        documents = [row | {"heavy": int(weight)} for row, weight in zip(rows(), WEIGHTS, strict=False)]
        write(tmp_path / "train.jsonl", documents)
        ours, theirs = (
            MultiLabelClassifier(weight="heavy", text="title", settings=FAST | {"data.stream": stream})
            .fit(tmp_path / "train.jsonl", cache=tmp_path / "cache")
            for stream in ("on", "off")
        )  # fmt: skip
        assert ours.fingerprint_ == theirs.fingerprint_
        assert ours.metrics_["values"] == pytest.approx(theirs.metrics_["values"], nan_ok=True)

    def test_folds_and_refit(self):
        out_of_fold = classifier(**{"train.folds": 3}).fit(TEXTS, LABELS, WEIGHTS)
        assert out_of_fold.metrics_["documents"] == int((WEIGHTS > 0).sum())
        plain = classifier(**{"train.folds": 3}).fit(TEXTS, LABELS)
        assert out_of_fold.metrics_["values"]["macro_ap"] != plain.metrics_["values"]["macro_ap"]
        refitted = classifier(**{"train.refit": True}).fit(TEXTS, LABELS, WEIGHTS)
        assert refitted.score(TEXTS, LABELS) > 0.3

    def test_a_run_goes_on_only_with_the_same_weights(self, tmp_path):
        classifier().fit(TEXTS, LABELS, WEIGHTS, out=tmp_path / "run")
        again = classifier().fit(TEXTS, LABELS, WEIGHTS, out=tmp_path / "run", resume=True)
        loaded = MultiLabelClassifier.load(tmp_path / "run")
        assert (loaded.decision_function(TEXTS) == again.decision_function(TEXTS)).all()
        with pytest.raises(RunError, match="was trained on other data"):
            classifier().fit(TEXTS, LABELS, WEIGHTS + 1, out=tmp_path / "run", resume=True)

    def test_the_plan_says_so(self):
        frame = pl.DataFrame({"text": TEXTS, "labels": LABELS, "heavy": WEIGHTS})
        assert inspect(frame).ignored == ("heavy",)
        assert ("heavy", "weight") in [(each.name, each.use) for each in inspect(frame, weight="heavy").columns]

    def test_weights_of_documents(self):
        documents = Documents.from_lists(TEXTS, LABELS)
        ours = classifier().fit(documents, sample_weight=WEIGHTS)
        assert ours.fingerprint_ == classifier().fit(TEXTS, LABELS, WEIGHTS).fingerprint_
        assert replace(ours.fit_).fingerprint == ours.fingerprint_

    def test_commands(self, tmp_path):
        documents = [row | {"heavy": int(weight)} for row, weight in zip(rows(), WEIGHTS, strict=False)]
        write(tmp_path / "train.jsonl", documents)
        printed = done("classify", "fit", tmp_path / "train.jsonl", "--out", tmp_path / "run", "--weight", "heavy",
                       "--text", "title", "--features", "ngrams", *TINY)  # fmt: skip
        zero = int((WEIGHTS[:120] == 0).sum())
        assert f"{zero} documents with the weight 0; left out." in printed
        assert "Weights of training documents are " in printed
        plan = json.loads(done("inspect", tmp_path / "train.jsonl", "--text", "title", "--weight", "heavy", "--json"))
        assert {"heavy": "weight"}.items() <= {each["name"]: each["use"] for each in plan["columns"]}.items()
        documents[3]["heavy"] = -1
        write(tmp_path / "bad.jsonl", documents)
        message = refused("classify", "fit", tmp_path / "bad.jsonl", "--out", tmp_path / "no", "--weight", "heavy")
        assert "bad.jsonl line 4: weight -1 in column 'heavy' is not allowed" in message
        assert not (tmp_path / "no").exists()


class TestScikitLearn:
    def test_a_pipeline_routes_them(self):
        lower = FunctionTransformer(lambda texts: [text.lower() for text in texts])
        with config_context(enable_metadata_routing=True):
            model = classifier().set_fit_request(sample_weight=True).set_score_request(sample_weight=True)
            pipeline = make_pipeline(lower, model).fit(TEXTS, LABELS, sample_weight=WEIGHTS)
            direct = classifier().fit(TEXTS, LABELS, WEIGHTS)
            assert (pipeline.decision_function(TEXTS) == direct.decision_function(TEXTS)).all()
            score = pipeline.score(TEXTS, LABELS, sample_weight=WEIGHTS)
            assert score == direct.score(TEXTS, LABELS, WEIGHTS) != direct.score(TEXTS, LABELS)

    def test_a_search_divides_them(self):
        with config_context(enable_metadata_routing=True):
            model = classifier().set_fit_request(sample_weight=True).set_score_request(sample_weight=True)
            search = GridSearchCV(model, {"seed": [0, 1]}, cv=KFold(2), error_score="raise")
            search.fit(TEXTS, LABELS, sample_weight=WEIGHTS + 1)
        train, test = next(KFold(2).split(TEXTS))
        fitted = classifier().fit([TEXTS[row] for row in train], [LABELS[row] for row in train], WEIGHTS[train] + 1)
        score = fitted.score([TEXTS[row] for row in test], [LABELS[row] for row in test], WEIGHTS[test] + 1)
        assert search.cv_results_["split0_test_score"][0] == score


def test_refit_compares_weights_of_training_and_validation_documents():
    """A validation document of weight 1 counts ten times as much as a training document of weight .1."""
    texts, labels = corpus(60)
    valid = from_pair((texts[40:], labels[40:], [1.0] * 20), None, "valid")
    data = prepare(from_lists(texts[:40], labels[:40], [0.1] * 40), valid, ClassifySettings())
    train, valid = (weights_of(each.labels) for each in (data.train, data.valid))
    assert (valid[0] / train[0]).item() == pytest.approx(10)
    assert train[0].item() == pytest.approx(1)
