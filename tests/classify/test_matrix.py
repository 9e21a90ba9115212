"""Feature matrices: from Python and from a file of the Extreme Classification format, scaled, and what is refused."""

import json

import httpx
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch
from click.testing import CliRunner
from scipy.sparse import csc_array, csr_matrix, dok_array, issparse
from sklearn.feature_extraction.text import TfidfTransformer
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_dataframe_column_names_consistency

from hyperfocal.classify.classifier import MultiLabelClassifier
from hyperfocal.cli import main
from hyperfocal.data.inspection import inspect
from hyperfocal.errors import ConfigError, DataError
from hyperfocal.export.export import export_plain
from hyperfocal.models.matrix_features import MatrixFeatures
from serve_cases import service

SETTINGS = {"train.epochs": 10, "train.threads": 1}
ROWS, FEATURES, LABELS = 160, 8, 3


def data(seed=0):
    """Return X and Y: label l is feature l."""
    rng = np.random.default_rng(seed)
    features = rng.random((ROWS, FEATURES)) < 0.4
    return features.astype(np.float64), features[:, :LABELS].astype(int)


def fit(X, Y, **settings):  # noqa: N803
    return MultiLabelClassifier(settings=SETTINGS | settings).fit(X, Y)


def plain_run():
    """Return a classifier of texts."""
    texts, labels = ["red wine", "dark beer"] * 20, [["x"], ["y"]] * 20
    return MultiLabelClassifier(features="ngrams", settings=SETTINGS).fit(texts, labels)


def extreme(path, X, Y):  # noqa: N803
    lines = [f"{len(X)} {FEATURES} {LABELS}"]
    for row, labels in zip(X, Y, strict=True):
        features = " ".join(f"{column}:{row[column]:g}" for column in row.nonzero()[0])
        lines.append(f"{','.join(map(str, labels.nonzero()[0]))} {features}")
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def fitted():
    return fit(*data())


class TestScaling:
    def test_standard_is_that_of_scikit_learn(self):
        X = np.random.default_rng(0).normal(3, 2, (20, 4)).astype(np.float32)  # noqa: N806
        made = MatrixFeatures.fit(X, "auto").make(X)
        assert made.sparse is None
        np.testing.assert_allclose(made.dense, StandardScaler().fit_transform(X), atol=1e-5)

    def test_constant_features_are_those_of_scikit_learn(self):
        X = np.array([[1e-9, 16_777_216, 0.1], [3e-9, 16_777_216, 0.1]], dtype=np.float32)  # noqa: N806
        made = MatrixFeatures.fit(X, "standard").make(X).dense
        np.testing.assert_allclose(made, StandardScaler().fit_transform(X.astype(np.float64)), atol=1e-5)
        assert made.tolist() == [pytest.approx([-1, 0, 0]), pytest.approx([1, 0, 0])]

    def test_a_value_far_from_those_of_training_counts_as_20_deviations(self):
        fitted = MatrixFeatures.fit(np.array([[0.0], [2.0]], dtype=np.float32), "standard")
        assert fitted.make(np.array([[1e30], [-1e9], [2]], dtype=np.float32)).dense.tolist() == [[20], [-20], [1]]

    def test_a_row_of_zeros_says_something_only_where_zero_is_a_value_as_others(self, caplog):
        X, Y = data()  # noqa: N806
        nothing = np.zeros((2, FEATURES))
        fit(X, Y).predict(nothing)
        assert "zeros" not in caplog.text
        fit(csr_matrix(X), Y).predict(csr_matrix(nothing))
        assert "2 of 2 rows of X are all zeros; their labels are unreliable" in caplog.text

    def test_fields_of_a_matrix(self):
        with pytest.raises(DataError, match=r"`fields=` or `vectors=` names column 'a', but these documents are"):
            MultiLabelClassifier(fields=["a"], settings=SETTINGS).fit(*data())

    def test_idf_l2_is_that_of_scikit_learn(self):
        X = csr_matrix(data()[0], dtype=np.float32)  # noqa: N806
        fitted = MatrixFeatures.fit(X, "auto")
        made, expected = fitted.make(X), TfidfTransformer().fit_transform(X)
        assert (fitted.scaling, fitted.num_sparse, fitted.num_dense, made.sparse) == ("idf_l2", 0, FEATURES, None)
        np.testing.assert_allclose(made.dense, expected.toarray() * np.sqrt(FEATURES), atol=1e-5)

    def test_features_of_an_earlier_version_are_in_both_parts(self):
        X = csr_matrix(data()[0], dtype=np.float32)  # noqa: N806
        value = MatrixFeatures.fit(X, "auto").to_json()
        del value["beside"]
        earlier = MatrixFeatures.from_json(value)
        assert (earlier.num_sparse, earlier.num_dense) == (FEATURES, FEATURES)
        made, expected = earlier.make(X), TfidfTransformer().fit_transform(X)
        np.testing.assert_allclose(made.sparse.values, expected.data, atol=1e-6)
        assert MatrixFeatures.from_json(earlier.to_json()).beside

    @pytest.mark.parametrize("sparse", [False, True])
    @pytest.mark.parametrize("scaling", ["none", "l2", "idf_l2", "standard"])
    def test_every_scaling_learns(self, scaling, sparse):
        X, Y = data()  # noqa: N806
        model = fit(csr_matrix(X) if sparse else X, Y, **{"data.scaling": scaling, "train.epochs": 20})
        other = data(1)
        assert model.evaluate((csr_matrix(other[0]) if sparse else other[0], other[1]))["values"]["macro_ap"] > 0.9

    def test_a_wide_sparse_matrix_is_not_made_dense(self):
        X = csr_matrix((np.ones(2), ([0, 1], [0, 9_999])), shape=(2, 10_000), dtype=np.float32)  # noqa: N806
        assert MatrixFeatures.fit(X, "auto").make(X).dense is None
        with pytest.raises(ConfigError, match="10,000 features are too many"):
            MatrixFeatures.fit(X, "standard")


class TestForms:
    def test_all_forms_of_one_matrix_predict_the_same(self, fitted):
        X, Y = data()  # noqa: N806
        expected = fitted.predict_proba(X)
        frame = pd.DataFrame(X, columns=[f"f{column}" for column in range(FEATURES)])
        for form in (X.astype(int), torch.tensor(X), frame, csr_matrix(X), csc_array(X), X.astype(bool)):
            np.testing.assert_allclose(fitted.predict_proba(form), expected, atol=1e-6)
            assert fit(form, Y).n_features_in_ == FEATURES

    def test_other_forms_of_numbers(self, fitted):
        X, Y = data()  # noqa: N806
        expected = fitted.predict_proba(X)
        for form in (X.tolist(), tuple(map(tuple, X)), [*X], X.astype(object), dok_array(X)):
            np.testing.assert_allclose(fitted.predict_proba(form), expected, atol=1e-6)
            if not issparse(form):  # other scaling
                np.testing.assert_allclose(fit(form, Y).predict_proba(X), expected, atol=1e-6)

    @pytest.mark.parametrize("kind", [np.ndarray.tolist, list, lambda matrix: matrix.astype(bool).tolist(), tuple])
    def test_lists_of_0_and_1_are_an_indicator_matrix(self, fitted, kind):
        X, Y = data()  # noqa: N806
        model = fit(X, kind(Y))
        np.testing.assert_array_equal(model.predict(X), fitted.predict(X))
        assert model.score(X, kind(Y)) == model.score(X, Y) == model.score(X, csr_matrix(Y))
        assert MultiLabelClassifier(settings=SETTINGS).fit(X, Y, valid=(X, kind(Y))).metrics_["documents"] == ROWS

    def test_other_lists_are_labels(self):
        X, Y = data()  # noqa: N806
        labels = [[str(label) for label in row.nonzero()[0]] for row in Y]
        model = fit(X, labels)
        assert set(map(tuple, model.predict(X))) > {("0",), ("1",), ()}
        assert model.score(X, labels) > 0.9

    def test_predict_is_sparse_if_y_was(self, fitted, tmp_path):
        X, Y = data()  # noqa: N806
        sparse = fit(X, csr_matrix(Y))
        for name, model, kind in (("dense", fitted, np.ndarray), ("sparse", sparse, csr_matrix)):
            model.save(tmp_path / name)
            for each in (model, MultiLabelClassifier.load(tmp_path / name)):
                predicted = each.predict(X)
                assert (type(predicted), predicted.dtype) == (kind, np.int64)
                assert (predicted != fitted.predict(X)).sum() == 0

    def test_half_is_the_sign_of_the_decision_function(self):
        X, Y = data()  # noqa: N806
        model = MultiLabelClassifier(decide="half", settings=SETTINGS).fit(X, Y)
        np.testing.assert_array_equal(model.predict(X), model.decision_function(X) > 0)
        one = MultiLabelClassifier(decide="half", settings=SETTINGS).fit(X, Y[:, 0])
        assert one.settings_.decide.rule == "argmax"
        np.testing.assert_array_equal(one.predict(X), one.decision_function(X) > 0)

    def test_predict_has_the_form_of_y(self, fitted):
        X, Y = data(1)  # noqa: N806
        assert fitted.predict(X).shape == Y.shape
        assert fitted.decision_function(X).shape == Y.shape
        assert fitted.score(X, Y) > 0.9
        assert fitted.evaluate((X, Y))["values"]["macro_ap"] > 0.9

    def test_a_loaded_run_predicts_the_same(self, fitted, tmp_path):
        fitted.save(tmp_path / "run")
        X = data(1)[0]  # noqa: N806
        again = MultiLabelClassifier.load(tmp_path / "run")
        np.testing.assert_array_equal(again.predict_proba(X), fitted.predict_proba(X))
        with pytest.raises(ConfigError, match="which an export cannot encode"):
            export_plain(tmp_path / "run", tmp_path / "export")

    def test_validation_rows_and_folds(self):
        X, Y = data()  # noqa: N806
        valid = MultiLabelClassifier(settings=SETTINGS).fit(X, Y, valid=data(1))
        assert valid.metrics_["documents"] == ROWS
        assert fit(X, Y, **{"train.folds": 2}).metrics_["documents"] == ROWS

    def test_a_head_is_trained_again_on_all_rows(self):
        X, Y = data()  # noqa: N806
        for form in (X, csr_matrix(X)):
            assert fit(form, Y, **{"train.refit": True}).score(form, Y) > 0.9

    def test_the_fingerprint_covers_the_matrix(self, fitted):
        X, Y = data()  # noqa: N806
        assert fit(X * 2, Y).fingerprint_ != fitted.fingerprint_ == fit(X, Y).fingerprint_


class TestNames:
    NAMES = tuple(f"f{column}" for column in range(FEATURES))

    @pytest.mark.parametrize("library", [pd.DataFrame, lambda frame: pl.from_pandas(frame), pa.Table.from_pandas])
    def test_of_a_frame(self, library, tmp_path):
        frame = pd.DataFrame(data()[0], columns=self.NAMES)
        fit(library(frame), data()[1]).save(tmp_path / "run")
        model = MultiLabelClassifier.load(tmp_path / "run")
        assert model.feature_names_in_.tolist() == [*self.NAMES]
        assert model.feature_names_in_.dtype == object
        np.testing.assert_array_equal(model.predict(library(frame)), model.predict(frame.to_numpy()))
        with pytest.raises(DataError, match="Feature names must be in the same order as they were in fit"):
            model.predict(library(frame[[*self.NAMES[::-1]]]))
        with pytest.raises(DataError, match="unseen at fit time:\n- g\nFeature names seen at fit time, yet"):
            model.score(library(frame.rename(columns={"f0": "g"})), data()[1])

    def test_an_index_is_no_feature(self):
        frame = pd.DataFrame(data()[0], columns=self.NAMES)
        frame.index = pd.Index([f"row {row}" for row in range(ROWS)], name="id")
        assert fit(frame, data()[1]).feature_names_in_.tolist() == [*self.NAMES]

    def test_numbers_are_no_names(self, fitted):
        for model in (fitted, fit(pd.DataFrame(data()[0]), data()[1])):
            assert not hasattr(model, "feature_names_in_")

    @pytest.mark.filterwarnings("ignore::FutureWarning")
    def test_scikit_learns_own_check(self):
        check_dataframe_column_names_consistency("", MultiLabelClassifier(settings=SETTINGS))


class TestRefusing:
    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_a_value_that_is_not_finite(self, fitted, value):
        X, Y = data()  # noqa: N806
        X[17, 3] = value
        for call in (lambda: fit(X, Y), lambda: fitted.predict(X)):
            with pytest.raises(DataError, match=r"Input X contains (NaN|infinity)"):
                call()

    def test_a_value_that_is_no_number(self, fitted):
        X, Y = data()  # noqa: N806
        objects = X.astype(object)
        objects[17, 3] = {}
        for call in (lambda: fit(objects, Y), lambda: fitted.predict(objects)):
            with pytest.raises(DataError, match="must be a string or a real number, not 'dict'"):
                call()
        with pytest.raises(DataError, match="Complex data not supported"):
            fit(X + 1j, Y)
        with pytest.raises(DataError, match="inhomogeneous"):
            fit([*X.tolist()[:-1], [1.0]], Y)

    @pytest.mark.parametrize("kind", [np.asarray, np.ndarray.tolist, csr_matrix, dok_array])
    def test_no_labels(self, kind):
        with pytest.raises(DataError, match="requires y to be passed, but the target y is None"):
            MultiLabelClassifier(settings=SETTINGS).fit(kind(data()[0]))

    def test_lists_that_are_labels_in_place_of_a_matrix(self, fitted):
        with pytest.raises(DataError, match="training labels are an indicator matrix of 3 columns and these are lists"):
            fitted.score(data()[0], [["0"]] * ROWS)

    def test_one_row_cannot_be_split(self):
        X, Y = data()  # noqa: N806
        with pytest.raises(DataError, match=r"^one document \(n_samples=1\) cannot be split"):
            fit(X[:1], Y[:1])

    def test_another_number_of_features(self, fitted):
        with pytest.raises(DataError, match="X has 7 features, but MultiLabelClassifier is expecting 8 features as in"):
            fitted.predict(data()[0][:, :7])

    def test_x_and_y_of_different_lengths(self):
        X, Y = data()  # noqa: N806
        with pytest.raises(DataError, match=r"inconsistent numbers of samples: \[160, 159\]"):
            fit(X, Y[:-1])

    def test_texts_for_a_run_of_a_matrix_and_a_matrix_for_one_of_texts(self, fitted):
        with pytest.raises(DataError):
            fitted.predict(["a text"])
        plain = plain_run()
        with pytest.raises(DataError):
            plain.predict(data()[0])

    def test_a_run_of_texts_has_no_number_of_features(self):
        plain = plain_run()
        assert not hasattr(plain, "n_features_in_")


class TestExtremeFiles:
    def test_fit_predict_and_evaluate(self, tmp_path):
        train, test = (extreme(tmp_path / f"{name}.txt", *data(seed)) for seed, name in enumerate(("train", "test")))
        run, out = tmp_path / "run", tmp_path / "out.jsonl"
        fast = [part for key, value in SETTINGS.items() for part in ("--set", f"{key}={value}")]
        done = CliRunner().invoke(main, ["classify", "fit", str(train), "--out", str(run), *fast])
        assert done.exit_code == 0, done.output
        done = CliRunner().invoke(main, ["classify", "predict", str(run), str(test), "--out", str(out)])
        assert done.exit_code == 0, done.output
        rows = [json.loads(line) for line in out.read_text().splitlines()]
        model = MultiLabelClassifier.load(run)
        assert [row["labels"] for row in rows] == model.predict(csr_matrix(data(1)[0]))
        done = CliRunner().invoke(main, ["classify", "evaluate", str(run), str(test), "--json"])
        assert json.loads(done.output)["values"]["macro_ap"] > 0.9

    def test_inspect_grid_and_blocks(self, tmp_path, monkeypatch):
        train, test = (extreme(tmp_path / f"{name}.txt", *data(seed)) for seed, name in enumerate(("train", "test")))
        assert [column.use for column in inspect(train).columns] == ["matrix", "labels"]
        fast = [part for key, value in SETTINGS.items() for part in ("--set", f"{key}={value}")]
        choices = ["--caps", "none", "--gammas", "none,2", "--seeds", "1", "--test", str(test)]
        grid = ["classify", "grid", str(train), "--out", str(tmp_path / "grid"), *choices, *fast]
        done = CliRunner().invoke(main, grid)
        assert done.exit_code == 0, done.output
        predict = ["classify", "predict", str(tmp_path / "grid" / "winner"), str(test), "--out"]
        done = CliRunner().invoke(main, [*predict, str(tmp_path / "parts.jsonl"), "--block", "50"])
        assert done.exit_code == 2
        assert "holds a feature matrix, which is read whole. Leave --block and --resume out" in done.output
        monkeypatch.setattr("hyperfocal.cli.predict.LARGE_BYTES", 1)
        done = CliRunner().invoke(main, [*predict, str(tmp_path / "out.jsonl")])
        assert done.exit_code == 0, done.output
        assert len((tmp_path / "out.jsonl").read_text().splitlines()) == ROWS

    def test_a_damaged_file_names_its_line(self, tmp_path):
        path = extreme(tmp_path / "train.txt", *data())
        path.write_text(path.read_text() + "9 0:1\n")
        done = CliRunner().invoke(main, ["classify", "fit", str(path), "--out", str(tmp_path / "run")])
        assert done.exit_code == 2
        assert "label '9' is out of range" in done.output
        assert not (tmp_path / "run").exists()


class TestService:
    """Rows over HTTP get the scores of Python."""

    @pytest.fixture(scope="class", params=["dense", "sparse", "named"])
    @classmethod
    def served(cls, request, tmp_path_factory):
        X, Y = data()  # noqa: N806
        form = {
            "dense": X,
            "sparse": csr_matrix(X),
            "named": pd.DataFrame(X, columns=[f"f{n}" for n in range(X.shape[1])]),
        }
        path = tmp_path_factory.mktemp("served") / "run"
        fitted = MultiLabelClassifier(settings=SETTINGS).fit(form[request.param], Y)
        fitted.save(path)
        with service(path) as running, httpx.Client(base_url=running.address, timeout=60) as client:
            yield fitted, client, request.param

    def test_lists_and_objects(self, served):
        fitted, client, kind = served
        X = data(1)[0][:5].astype(np.float32)  # noqa: N806
        X[X < 0] = 0
        name = (lambda n: f"f{n}") if kind == "named" else str
        objects = [{name(n): float(row[n]) for n in np.flatnonzero(row)} for row in X]
        frame = pd.DataFrame(X, columns=[name(n) for n in range(X.shape[1])]) if kind == "named" else X
        expected = fitted.predict_proba(frame)
        for rows in (X.tolist(), objects, [*X[:2].tolist(), *objects[2:]]):
            answers = client.post("/v1/classify", json={"rows": rows, "top": 3}).json()["answers"]
            for answer, probabilities in zip(answers, expected, strict=True):
                scores = {int(one["label"]): one["score"] for one in answer["scores"]}
                assert scores == pytest.approx({label: probabilities[label] for label in scores}, abs=1e-5)
                assert list(scores) == np.argsort(-probabilities, kind="stable")[: len(scores)].tolist()
                assert answer["known"]

    def test_what_is_refused(self, served):
        _, client, kind = served
        wide = data()[0].shape[1]
        for body, message in (
            ({"rows": [[0.0] * wide, [1.0]]}, f"row 2 has 1 values, and the run reads {wide} features"),
            ({"rows": [{"x": 1}]}, "row 1: 'x' is no feature of the run"),
            ({"rows": [{str(wide): 1}]}, f"'{wide}' is no feature of the run"),
            ({"rows": [[1e300] + [0] * (wide - 1)]}, "a value is too large for a float32"),
            ({"texts": ["a text"]}, "the run reads rows of a feature matrix"),
            ({}, "texts or rows are needed"),
            ({"rows": []}, "length"),
            ({"rows": [["a"]]}, "Expected `float`"),
        ):
            response = client.post("/v1/classify", json=body)
            assert response.status_code == 422
            assert message in response.json()["error"]["message"]
        card = client.get("/v1/model").json()
        assert card["matrix"]
        assert card["example"] == {"f0" if kind == "named" else "0": 0.5}
        assert client.post("/v1/classify", json={"rows": [card["example"]]}).status_code == 200

    def test_a_row_of_zeros_says_nothing_if_zeros_are_left_out(self, served):
        _, client, kind = served
        (answer,) = client.post("/v1/classify", json={"rows": [{}]}).json()["answers"]
        assert answer["known"] == (kind != "sparse")
        assert ("no value other than 0" in answer.get("note", "")) == (kind == "sparse")
