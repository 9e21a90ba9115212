"""scikit-learn's checks, searches and cross-validation, with labels in each form that docs/commands.md names."""

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from scipy.sparse import csr_array, csr_matrix
from sklearn.base import clone
from sklearn.metrics import f1_score
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    KFold,
    RandomizedSearchCV,
    cross_val_predict,
    cross_val_score,
    cross_validate,
    learning_curve,
    train_test_split,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, MultiLabelBinarizer
from sklearn.utils.estimator_checks import parametrize_with_checks

from hyperfocal.classify.classifier import MultiLabelClassifier
from hyperfocal.errors import DataError
from text_cases import FAST, corpus

TEXTS, LABELS = corpus(120)
MATRIX = MultiLabelBinarizer().fit_transform(LABELS)
NAMES = MultiLabelBinarizer().fit(LABELS).classes_
QUICK = {"train.epochs": 1}
GRID = {"settings": [FAST | QUICK, FAST | {"train.epochs": 4}]}  # the second learns more
SPLITTER = KFold(2, shuffle=True, random_state=0)
FRAME = pd.DataFrame({"text": TEXTS, "labels": LABELS, "source": [f"s{row // 3}" for row in range(120)]})
OBJECTS = np.empty(120, dtype=object)
OBJECTS[:] = LABELS
LISTS = {
    "lists": LABELS,
    "tuples": [tuple(row) for row in LABELS],
    "array of objects": OBJECTS,
    "pandas": pd.Series(LABELS, index=range(1_000, 1_120)),  # rows are taken by their place, not by the index
    "polars": pl.Series(LABELS),
    "pyarrow": pa.array(LABELS),
}
MATRICES = {"int": MATRIX, "bool": MATRIX.astype(bool), "pandas": pd.DataFrame(MATRIX, columns=NAMES)}


def classifier(**parameters):
    return MultiLabelClassifier(settings=FAST | QUICK, **parameters)


def macro_ap(fitted, texts, labels=None):
    """Score with a metric of hyperfocal."""
    return fitted.evaluate(texts if labels is None else (texts, labels))["values"]["macro_ap"]


def by_hand(texts, labels, scorer):
    """Return the scores of SPLITTER's splits, without scikit-learn's loop."""
    scores = []
    for train, test in SPLITTER.split(TEXTS):
        fitted = classifier().fit([texts[row] for row in train], [labels[row] for row in train])
        scores.append(scorer(fitted, [texts[row] for row in test], [labels[row] for row in test]))
    return scores


# "half" because one check expects predict to be decision_function > 0, and other rules tune thresholds.
CHECKED = {"train.epochs": 2, "train.threads": 1, "train.baselines": "off"}


# As of SGDClassifier: validation documents are drawn, and so are batches and dropout. A document that is repeated can
# be on both sides of the split; one with a weight is on one side. test_sample_weight.py fits without chance.
DRAWN = "the split, the batches and dropout are drawn for each document, not for each unit of weight"
NOT_EQUAL = dict.fromkeys([f"check_sample_weight_equivalence_on_{kind}_data" for kind in ("dense", "sparse")], DRAWN)


@parametrize_with_checks(
    [MultiLabelClassifier(decide="half", settings=CHECKED)], expected_failed_checks=lambda estimator: NOT_EQUAL
)
def test_its_checks_of_estimators(estimator, check):
    with np.errstate(over="ignore"):
        check(estimator)


class TestLists:
    @pytest.mark.parametrize("form", LISTS)
    def test_cross_val_score(self, form):
        scores = cross_val_score(classifier(), TEXTS, LISTS[form], cv=SPLITTER, error_score="raise")
        assert scores.tolist() == by_hand(TEXTS, LABELS, MultiLabelClassifier.score)

    def test_a_metric_of_hyperfocal(self):
        scores = cross_val_score(classifier(), TEXTS, LABELS, cv=SPLITTER, scoring=macro_ap, error_score="raise")
        assert scores.tolist() == by_hand(TEXTS, LABELS, macro_ap)

    @pytest.mark.parametrize("labels", [LABELS, LISTS["pandas"]], ids=["lists", "pandas"])
    def test_searches(self, labels):
        for search in (
            GridSearchCV(classifier(), GRID, cv=SPLITTER, error_score="raise"),
            RandomizedSearchCV(classifier(), GRID, n_iter=2, cv=SPLITTER, error_score="raise"),
        ):
            search.fit(TEXTS, labels)
            assert search.best_params_["settings"]["train.epochs"] == 4
            assert search.best_estimator_.num_documents_ == 102  # 0.85 * 120: the rest is for thresholds
            assert "sport" in search.predict(["the sport0 sport1"])[0]
            assert search.score(TEXTS, labels) > 0.8

    def test_several_metrics_at_once(self):
        def both(fitted, texts, labels):
            values = fitted.evaluate((texts, labels))["values"]
            return {"ap": values["macro_ap"], "f1": values["tuned.macro_f1"]}

        search = GridSearchCV(classifier(), GRID, cv=SPLITTER, scoring=both, refit="f1", error_score="raise")
        results = search.fit(TEXTS, LABELS).cv_results_
        assert (np.diff(results["mean_test_ap"]) > 0).all()
        assert search.best_score_ == results["mean_test_f1"].max()

    def test_groups_stay_together(self):
        groups = np.arange(120) // 4
        splits = GroupKFold(3).split(TEXTS, groups=groups)
        expected = cross_val_score(classifier(), TEXTS, LABELS, cv=list(splits), error_score="raise")
        scores = cross_val_score(classifier(), TEXTS, LABELS, groups=groups, cv=GroupKFold(3), error_score="raise")
        assert scores.tolist() == expected.tolist()

    def test_a_pipeline(self):
        lower = FunctionTransformer(lambda texts: [text.lower() for text in texts])
        pipeline = make_pipeline(lower, classifier())
        grid = {"multilabelclassifier__settings": GRID["settings"]}
        search = GridSearchCV(clone(pipeline), grid, cv=SPLITTER, error_score="raise").fit(TEXTS, LABELS)
        assert "sport" in search.predict(["THE SPORT0 SPORT1"])[0]

    def test_other_tools(self):
        train, test, train_labels, test_labels = train_test_split(TEXTS, LABELS, test_size=0.25, random_state=0)
        assert 0 < classifier().fit(train, train_labels).score(test, test_labels) < 1
        _, scores, _ = learning_curve(classifier(), TEXTS, LABELS, cv=SPLITTER, train_sizes=[1.0], error_score="raise")
        assert scores.shape == (1, 2)

    @pytest.mark.parametrize("cv", [None, 2])
    def test_scikit_learn_refuses_them_if_cv_is_a_number(self, cv):
        """If this fails, docs/commands.md can promise more."""
        with pytest.raises(ValueError, match="legacy multi-label data representation"):
            GridSearchCV(classifier(), GRID, cv=cv).fit(TEXTS, LABELS)

    def test_its_metrics_refuse_them_too(self):
        with pytest.raises(ValueError, match="legacy multi-label data representation"):
            f1_score(LABELS, LABELS, average="macro")


class TestMatrices:
    @pytest.mark.parametrize("cv", [2, SPLITTER], ids=["number", "splitter"])
    @pytest.mark.parametrize("form", MATRICES)
    def test_names_of_metrics(self, form, cv):
        scoring = ["f1_macro", "average_precision"]
        scores = cross_validate(classifier(), TEXTS, MATRICES[form], cv=cv, scoring=scoring, error_score="raise")
        assert (scores["test_f1_macro"] > 0.2).all()
        assert (scores["test_average_precision"] > 0.3).all()

    def test_f1_macro_is_that_of_the_decided_labels(self):
        train, test = next(SPLITTER.split(TEXTS))
        fitted = classifier().fit([TEXTS[row] for row in train], MATRIX[train])
        expected = f1_score(MATRIX[test], fitted.predict([TEXTS[row] for row in test]), average="macro")
        scores = cross_val_score(classifier(), TEXTS, MATRIX, cv=SPLITTER, scoring="f1_macro", error_score="raise")
        assert scores[0] == pytest.approx(expected)

    @pytest.mark.parametrize("kind", [csr_matrix, csr_array])
    @pytest.mark.parametrize("scoring", [None, "f1_macro"])
    def test_a_sparse_one(self, kind, scoring):
        search = GridSearchCV(classifier(), GRID, cv=2, scoring=scoring, error_score="raise").fit(TEXTS, kind(MATRIX))
        dense = GridSearchCV(classifier(), GRID, cv=2, scoring=scoring, error_score="raise").fit(TEXTS, MATRIX)
        assert search.best_score_ == dense.best_score_

    def test_a_randomized_search(self):
        search = RandomizedSearchCV(classifier(), GRID, n_iter=2, cv=2, scoring="f1_micro", error_score="raise")
        assert search.fit(TEXTS, MATRIX).best_params_["settings"]["train.epochs"] == 4

    def test_cross_val_predict(self):
        assert cross_val_predict(classifier(), TEXTS, MATRIX, cv=2).shape == MATRIX.shape


class TestFrames:
    """A frame has texts and labels, so that there is no second argument for scikit-learn to check."""

    @pytest.mark.parametrize(
        "make", [lambda: FRAME, lambda: pl.from_pandas(FRAME), lambda: pa.Table.from_pandas(FRAME)]
    )
    def test_a_number_of_folds(self, make):
        search = GridSearchCV(classifier(), GRID, cv=2, error_score="raise").fit(make())
        lists = GridSearchCV(classifier(), GRID, cv=KFold(2), error_score="raise").fit(TEXTS, LABELS)
        assert search.cv_results_["mean_test_score"].tolist() == lists.cv_results_["mean_test_score"].tolist()
        assert search.score(make()) == lists.score(TEXTS, LABELS)

    def test_groups(self):
        fit = classifier(group="source")
        scores = cross_val_score(fit, FRAME, groups=FRAME["source"], cv=GroupKFold(2), error_score="raise")
        assert ((scores > 0) & (scores < 1)).all()

    def test_a_metric_of_hyperfocal(self):
        scores = cross_val_score(classifier(), FRAME, cv=SPLITTER, scoring=macro_ap, error_score="raise")
        assert scores.tolist() == by_hand(TEXTS, LABELS, macro_ap)

    def test_score_of_a_file_and_of_what_has_no_labels(self, tmp_path):
        fitted = classifier().fit(TEXTS, LABELS)
        pl.from_pandas(FRAME).write_ndjson(tmp_path / "documents.jsonl")
        expected = fitted.score(TEXTS, LABELS)
        assert fitted.score(FRAME) == fitted.score(tmp_path / "documents.jsonl") == expected
        with pytest.raises(DataError, match="list is not a source of rows"):
            fitted.score(TEXTS)
        with pytest.raises(DataError, match="labels"):
            fitted.score(FRAME[["text"]])
