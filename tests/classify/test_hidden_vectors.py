"""`transform`: the vectors before the output layer, from which the formula in its docstring gives the logits."""

from dataclasses import replace

import numpy as np
import pandas as pd
import polars as pl
import pytest
from scipy.sparse import csr_matrix, issparse
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from hyperfocal.classify.classifier import MultiLabelClassifier
from hyperfocal.errors import DataError
from hyperfocal.models.matrix_features import MatrixFeatures
from hyperfocal.training.run import UnfittedError

RNG = np.random.default_rng(0)
X = RNG.normal(size=(80, 5)).astype(np.float32)
Y = (X[:, :3] > 0).astype(int)
TEXTS = ["red wine", "dark beer"] * 40
FRAME = pd.DataFrame({"a": X[:, 0], "b": ["u", "v"] * 40, "labels": [["x"], ["y"]] * 40})
FAST = {"train.epochs": 2, "train.threads": 1, "train.baselines": "off"}


def fit(*data, settings=None, **parameters):
    return MultiLabelClassifier(settings=FAST | (settings or {}), **parameters).fit(*data)


@pytest.mark.parametrize(("name", "width"), [("mlp", 7), ("linear", 5)])
def test_the_formula_holds_for_a_matrix(name, width, tmp_path):
    model = fit(X, Y, settings={"head.name": name, "head.width": 7})
    model.save(tmp_path / "run")
    for each in (model, MultiLabelClassifier.load(tmp_path / "run")):
        hidden = each.transform(X)
        assert (hidden.shape, hidden.dtype) == ((80, width), np.float32)
        logits = hidden @ each.head_.weight.detach().numpy().T + each.head_.bias.detach().numpy()
        columns = [int(name) for name in each.vocabulary_.names]
        np.testing.assert_allclose(logits, each.decision_function(X)[:, columns], atol=1e-5)


def test_the_formula_holds_with_both_parts(monkeypatch):
    """As in runs of an earlier version: small sparse matrices now go into the deep part alone."""
    fit_alone, inputs = MatrixFeatures.fit, csr_matrix(X)
    monkeypatch.setattr(MatrixFeatures, "fit", lambda *given: replace(fit_alone(*given), beside=True))
    model = fit(inputs, Y, settings={"head.width": 7})
    sparse = model.features_.columns.matrix.make(inputs).sparse
    rows = csr_matrix((sparse.values.numpy(), sparse.columns.numpy(), sparse.indptr.numpy()), shape=X.shape)
    weight, wide, bias = (getattr(model.head_, name).detach().numpy() for name in ("weight", "wide", "bias"))
    columns = [int(name) for name in model.vocabulary_.names]
    logits = model.transform(inputs) @ weight.T + rows @ wide + bias
    np.testing.assert_allclose(logits, model.decision_function(inputs)[:, columns], atol=1e-5)


def test_ngrams_alone_are_returned_as_they_are():
    model = fit(TEXTS, [["x"], ["y"]] * 40, features="ngrams", label_texts="off")
    rows = model.transform(TEXTS)
    assert issparse(rows)
    assert rows.shape == (80, len(model.get_feature_names_out()))
    logits = rows @ model.head_.wide.detach().numpy() + model.head_.bias.detach().numpy()
    np.testing.assert_allclose(logits, model.decision_function(TEXTS), atol=1e-5)


def test_columns_of_a_frame():
    model = fit(FRAME, fields=["a:number", "b:category"], settings={"head.width": 7})
    assert model.transform(FRAME).shape == (80, 7)
    with pytest.raises(DataError, match="no column 'b'"):
        model.transform(FRAME[["a"]])


@pytest.mark.parametrize(("library", "kind"), [("pandas", pd.DataFrame), ("polars", pl.DataFrame)])
def test_set_output(library, kind):
    model = MultiLabelClassifier(settings=FAST | {"head.width": 3}).set_output(transform=library).fit(X, Y)
    frame = model.transform(X)
    assert isinstance(frame, kind)
    assert list(frame.columns) == [f"multilabelclassifier{column}" for column in range(3)]
    np.testing.assert_array_equal(frame.to_numpy(), clone(model).set_output(transform="default").fit_transform(X, Y))
    assert isinstance(model.predict(X), np.ndarray)


def test_a_step_of_a_pipeline():
    steps = make_pipeline(MultiLabelClassifier(settings=FAST), LogisticRegression()).fit(X, Y[:, 0])
    assert steps.score(X, Y[:, 0]) > 0.9


def test_before_fit():
    for call in (lambda: MultiLabelClassifier().transform(X), MultiLabelClassifier().get_feature_names_out):
        with pytest.raises((UnfittedError, ValueError), match="not fitted"):
            call()
