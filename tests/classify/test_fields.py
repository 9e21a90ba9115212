"""Fields and vectors of a classifier: fit, predict, evaluate, grid, files, the command line and the service."""

import json

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner

from hyperfocal.classify.classifier import MultiLabelClassifier
from hyperfocal.classify.service import ClassifyPredictor
from hyperfocal.cli import main
from hyperfocal.data.documents import as_documents
from hyperfocal.data.field_columns import MOST_VALUES
from hyperfocal.data.files import MEMORY
from hyperfocal.data.input_columns import InputColumns, read_columns
from hyperfocal.errors import ConfigError, DataError
from hyperfocal.export.export import export_onnx, export_plain
from hyperfocal.models.column_features import TOKEN, ColumnFeatures
from hyperfocal.serve.messages import ClassifyRequest
from text_cases import FAST, corpus

SETTINGS = FAST | {"features.label_texts": "off"}
FIELDS = ["section", "price", "day"]


def shop(number=120, seed=0):
    """Return a frame whose labels are the section, and "new" for a late day; the texts say nothing."""
    rng = np.random.default_rng(seed)
    sections = rng.choice(["wine", "beer", "tea"], number)
    late = rng.random(number) < 0.5
    return {
        "id": [f"p{row}" for row in range(number)],
        "text": [f"thing {word}" for word in rng.choice(["one", "two", "three"], number)],
        "labels": [[section, *(["new"] if new else [])] for section, new in zip(sections, late, strict=True)],
        "section": sections.tolist(),
        "price": [float(value) if value < 80 else None for value in rng.integers(1, 100, number)],
        "day": [f"20{'20' if new else '10'}-0{rng.integers(1, 9)}-11" for new in late],
        "image": rng.normal(size=(number, 4)).tolist(),
    }


def classifier(**settings):
    return MultiLabelClassifier(fields=FIELDS, vectors="image", settings=SETTINGS | {"train.epochs": 8} | settings)


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """Return a classifier of texts, fields and vectors, and its run."""
    run = tmp_path_factory.mktemp("shop") / "run"
    return classifier().fit(shop(), out=run), run


def without(frame, *names):
    return {name: values for name, values in frame.items() if name not in names}


class TestEncoding:
    def test_values_are_tokens_numbers_are_standardized_and_dates_have_parts(self):
        frame = pl.DataFrame({"tag": ["a b", "b", "b c"], "n": [1.0, 3.0, None], "d": ["1970-01-01", "1970-01-03", ""]})
        columns = read_columns(frame, [("tag", "list"), ("n", "number"), ("d", "date")], [], MEMORY)
        fitted = ColumnFeatures.fit(columns)
        features = fitted.make(columns, 3)
        assert list(fitted.fields[0].values) == ["a", "c"]  # every row has b, which distinguishes nothing
        assert features.sparse.indptr.tolist() == [0, 1, 1, 2]
        assert features.sparse.values.tolist() == pytest.approx([TOKEN, TOKEN])
        assert features.dense[:, :2].tolist() == [[-1, 0], [1, 0], [0, 1]]
        week = 2 * np.pi * np.array([0, 2]) / 7
        np.testing.assert_allclose(features.dense[:2, 6], np.sin(week), atol=1e-6)
        np.testing.assert_allclose(features.dense[:2, 7], np.cos(week), atol=1e-6)
        assert features.dense[2, 2:].tolist() == [0, 1, 0, 0, 0, 0]

    def test_vectors_have_a_mean_square_of_one(self):
        columns = InputColumns({}, pl.DataFrame(), {"v": np.array([[3, 4], [0, 0]], dtype=np.float32)})
        dense = ColumnFeatures.fit(columns).make(columns, 2).dense
        np.testing.assert_allclose(dense, np.array([[3, 4], [0, 0]]) / np.sqrt(12.5), rtol=1e-6)

    def test_a_field_of_many_values_has_the_most_frequent_as_tokens(self):
        values = [f"v{row}" for row in range(100_000)] + ["often"] * 2
        columns = read_columns(pl.DataFrame({"tag": values}), [("tag", "category")], [], MEMORY)
        fitted = ColumnFeatures.fit(columns)
        assert fitted.num_sparse == MOST_VALUES
        assert next(iter(fitted.fields[0].values)) == "often"
        assert fitted.unseen(columns) == {"tag": 100_000 - MOST_VALUES + 1}

    def test_small_numbers_vary_and_large_ones_that_are_all_the_same_do_not(self):
        for values, dense in ([[1e-12, 3e-12], [-1, 1]], [[1e9, 1e9 + 1e-7], [0, 0]]):
            columns = read_columns(pl.DataFrame({"n": values}), [("n", "number")], [], MEMORY)
            assert ColumnFeatures.fit(columns).make(columns, 2).dense[:, 0].tolist() == pytest.approx(dense)

    def test_a_number_far_from_those_of_training_counts_as_20_deviations(self):
        columns = read_columns(pl.DataFrame({"n": [1.0, 3.0]}), [("n", "number")], [], MEMORY)
        far = read_columns(pl.DataFrame({"n": [1e12, -1e12]}), [("n", "number")], [], MEMORY)
        assert ColumnFeatures.fit(columns).make(far, 2).dense[:, 0].tolist() == [20, -20]

    def test_a_constant_number_stays_without_effect(self):
        columns = read_columns(pl.DataFrame({"n": [7.0, 7.0]}), [("n", "number")], [], MEMORY)
        other = read_columns(pl.DataFrame({"n": [1e6, None]}), [("n", "number")], [], MEMORY)
        assert ColumnFeatures.fit(columns).make(other, 2).dense.tolist() == [[0, 0], [0, 1]]


class TestLearning:
    def test_fields_teach_what_the_texts_do_not_say(self, fitted):
        plain = MultiLabelClassifier(settings=SETTINGS).fit(shop())
        new = shop(seed=1)
        assert fitted[0].evaluate(new)["values"]["macro_ap"] > 0.85
        assert plain.evaluate(new)["values"]["macro_ap"] < 0.6

    def test_no_text_is_needed(self, tmp_path):
        model = classifier().fit(without(shop(), "text"), out=tmp_path / "run")
        new = without(shop(seed=1), "text", "labels")
        assert model.evaluate(shop(seed=1))["values"]["macro_ap"] > 0.85
        again = MultiLabelClassifier.load(tmp_path / "run")
        np.testing.assert_array_equal(again.predict_proba(new), model.predict_proba(new))
        assert model.features_.kind == "columns"

    def test_a_loaded_run_predicts_the_same(self, fitted):
        new = without(shop(seed=1), "labels")
        again = MultiLabelClassifier.load(fitted[1])
        np.testing.assert_array_equal(again.predict_proba(new), fitted[0].predict_proba(new))
        assert again.predict_documents(new)["labels"].to_list() == fitted[0].predict(new)

    def test_cross_validation_and_refit(self):
        folds = classifier(**{"train.folds": 3}).fit(shop())
        refit = classifier(**{"train.refit": True}).fit(shop())
        for model in (folds, refit):
            assert model.evaluate(shop(seed=1))["values"]["macro_ap"] > 0.85

    def test_the_fingerprint_covers_the_columns(self, fitted):
        frame = shop()
        for name, values in (("price", [1.0] * 119 + [2.0]), ("image", [[1.0, 2, 3, 4]] * 120)):
            assert classifier(**{"train.epochs": 1}).fit(frame | {name: values}).fingerprint_ != fitted[0].fingerprint_

    def test_a_value_that_training_never_saw_is_counted(self, fitted, caplog):
        new = shop(seed=1) | {"section": ["gin"] * 20 + ["wine"] * 100}
        assert fitted[0].evaluate(new)["data"]["unseen_values"] == {"section": 20}
        fitted[0].predict(without(new, "labels"))
        assert "in the fields section (20 documents)" in caplog.text

    def test_a_document_of_which_nothing_is_known(self, fitted):
        nothing = {"text": ["", "thing one"], "section": ["gin"] * 2, "price": [None] * 2, "day": [None] * 2}
        predicted = fitted[0].predict_documents(nothing | {"image": [None] * 2})
        assert predicted["known"].to_list() == [False, True]

    def test_texts_alone_are_as_before(self):
        texts, labels = corpus()
        model = MultiLabelClassifier(settings=SETTINGS).fit(texts, labels)
        assert model.features_.checksum == model.features_.text.checksum
        assert model.features_.to_json() == model.features_.text.to_json()


class TestRefusing:
    def test_lists_of_texts_have_no_columns(self, fitted):
        with pytest.raises(DataError, match="these documents are lists, which have no columns"):
            classifier().fit(["a", "b"], [["x"], ["y"]])
        with pytest.raises(DataError, match="no column 'section', which the run was trained with"):
            fitted[0].predict(["a text"])

    def test_a_missing_column_in_predict(self, fitted):
        with pytest.raises(DataError, match="no column 'section', from which this run reads a field"):
            fitted[0].predict_documents(without(shop(), "section"))

    def test_a_vector_of_another_length_in_predict(self, fitted):
        with pytest.raises(DataError, match="row 0: column 'image' has a vector of 3 numbers, and the others have 4"):
            fitted[0].predict_documents(shop(3) | {"image": [[1.0, 2, 3]] * 3})

    def test_fields_that_distinguish_nothing(self):
        with pytest.raises(DataError, match="fields section: each has one value in all training documents"):
            MultiLabelClassifier(fields=["section"], settings=SETTINGS).fit(
                {"labels": [["a"], ["b"]] * 20, "section": ["x"] * 40}
            )

    def test_streaming_and_exports(self, fitted, tmp_path):
        path = tmp_path / "docs.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in pl.DataFrame(shop()).to_dicts()))
        with pytest.raises(ConfigError, match=r"data\.stream = 'on' is not allowed with data\.fields"):
            classifier(**{"data.stream": "on"}).fit(path)
        for export in (export_onnx, export_plain):
            with pytest.raises(ConfigError, match="reads fields or vectors, which an export cannot encode"):
                export(fitted[1], tmp_path / "export")
        assert not (tmp_path / "export").exists()


class TestCommandLine:
    def test_fit_predict_evaluate_and_grid(self, tmp_path):
        files = {name: tmp_path / f"{name}.jsonl" for name in ("train", "new", "wrong")}
        for name, frame in (("train", shop()), ("new", shop(seed=1)), ("wrong", without(shop(), "section"))):
            files[name].write_text("".join(json.dumps(row) + "\n" for row in pl.DataFrame(frame).to_dicts()))
        columns = ["--field", "section:category", "--field", "price", "--field", "day", "--vector", "image"]
        fast = [part for key, value in SETTINGS.items() for part in ("--set", f"{key}={value}")]
        run, out = tmp_path / "run", tmp_path / "out.jsonl"
        fit = CliRunner().invoke(main, ["classify", "fit", str(files["train"]), "--out", str(run), *columns, *fast])
        assert fit.exit_code == 0, fit.output
        predict = ["classify", "predict", str(run), str(files["new"]), "--out", str(out)]
        whole = CliRunner().invoke(main, predict)
        assert whole.exit_code == 0, whole.output
        expected = out.read_text()
        out.unlink()
        assert CliRunner().invoke(main, [*predict, "--block", "50"]).exit_code == 0
        assert out.read_text() == expected
        wrong = CliRunner().invoke(main, ["classify", "evaluate", str(run), str(files["wrong"])])
        assert wrong.exit_code == 2
        assert "no column 'section'" in wrong.output
        grid = ["classify", "grid", str(files["train"]), "--out", str(tmp_path / "grid"), *columns, *fast]
        result = CliRunner().invoke(main, [*grid, "--caps", "none", "--gammas", "none,2", "--seeds", "1"])
        assert result.exit_code == 0, result.output

    def test_inspect_names_the_kinds(self, tmp_path):
        path = tmp_path / "docs.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in pl.DataFrame(shop()).to_dicts()))
        command = ["inspect", str(path), "--field", "price", "--vector", "image", "--json"]
        plan = json.loads(CliRunner().invoke(main, command).output)
        assert [(one["name"], one["use"], one["type"]) for one in plan["columns"]][1:3] == [
            ("price", "field", "number"),
            ("image", "vector", "4"),
        ]


class TestService:
    def test_objects_are_answered_as_by_predict(self, fitted):
        model = fitted[0]
        predictor = ClassifyPredictor(model.fit_, "1")
        (sample,) = predictor.answer([predictor.sample])
        assert len(sample.answers) == 1
        new = without(shop(6, seed=1), "labels")
        rows = pl.DataFrame(new).to_dicts()
        first, plain, second = predictor.answer(
            [
                ClassifyRequest(texts=rows[:2], explain=True),
                ClassifyRequest(texts=["a text"]),
                ClassifyRequest(texts=rows[2:]),
            ]
        )
        assert isinstance(plain, DataError)
        assert "a plain text has none" in str(plain)
        assert [one.labels for one in [*first.answers, *second.answers]] == model.predict(new)
        assert first.answers[0].explained is not None

    def test_objects_for_a_run_of_texts(self):
        texts, labels = corpus()
        frame = {"text": texts, "labels": labels}
        predictor = ClassifyPredictor(MultiLabelClassifier(settings=SETTINGS).fit(frame).fit_, "1")
        objects, mixed = predictor.answer(
            [ClassifyRequest(texts=texts[:3]), ClassifyRequest(texts=[texts[0], {"text": texts[1]}, texts[2]])]
        )
        assert objects == mixed

    def test_a_column_in_another_letter_case_harms_no_other_request(self, fitted):
        predictor = ClassifyPredictor(fitted[0].fit_, "1")
        rows = pl.DataFrame(without(shop(2, seed=1), "labels")).to_dicts()
        upper = [{name.upper(): value for name, value in row.items()} for row in rows]
        same, other, wrong = predictor.answer(
            [ClassifyRequest(texts=each) for each in (rows, upper, [{"text": "x", "Price": 1}])]
        )
        assert same == other
        assert "no column 'section'" in str(wrong)

    def test_ids_of_objects_are_not_read(self, fitted):
        predictor = ClassifyPredictor(fitted[0].fit_, "1")
        rows = pl.DataFrame(without(shop(2, seed=1), "labels")).to_dicts()
        twice = [row | {"id": "same"} for row in rows]
        first, second, alone = predictor.answer(
            [ClassifyRequest(texts=rows), ClassifyRequest(texts=twice), ClassifyRequest(texts=[{"id": "p1"}])]
        )
        assert first == second
        assert isinstance(alone, DataError)

    def test_the_example_for_a_plain_text_has_the_columns_of_the_run(self, fitted):
        (answer,) = ClassifyPredictor(fitted[0].fit_, "1").answer([ClassifyRequest(texts=["a text"])])
        example = '{"text": "a text", "section": "a", "price": 1.5, "day": "2026-01-31", "image": [0.5, "..."]}'
        assert str(answer).endswith(f"Send objects with these columns, such as {example}")

    def test_an_object_without_a_column(self, fitted):
        predictor = ClassifyPredictor(fitted[0].fit_, "1")
        (answer,) = predictor.answer([ClassifyRequest(texts=[{"text": "x"}])])
        assert "no column 'section'" in str(answer)


def test_a_frame_that_the_run_reads_is_documents(fitted):
    assert len(as_documents(shop(), fitted[0].fit_.model.reading).columns.kinds) == len(FIELDS)
