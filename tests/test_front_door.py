"""The same data through every door: files, frames of every library and dtype, lists. They train the same weights."""

import json

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from polars.testing import assert_series_equal

from hyperfocal import MultiLabelClassifier, Recommender
from hyperfocal.data.documents import as_documents
from hyperfocal.data.frames import as_frame
from hyperfocal.data.logs import as_log

TEXT_DTYPES = ["object", "str", "string", "string[pyarrow]", "category", pd.ArrowDtype(pa.string())]
WORDS = {"wine": "red grape bottle", "beer": "hop malt barrel", "tea": "leaf cup steam"}
quick = settings(deadline=None, max_examples=40)


def events():
    """Return 40 users with 6 events each, in no order; one column is not read and has holes."""
    rows = [(1_000 + user, 100 + (user + step) % 12, 10 * step) for user in range(40) for step in range(6)]
    frame = pd.DataFrame(rows, columns=["customer", "product", "ts"])
    frame["device"] = [None if row % 3 else "phone" for row in range(len(frame))]
    return frame.sample(frac=1, random_state=0, ignore_index=True)


def as_text(frame, names):
    return frame.assign(**{name: frame[name].astype(str) for name in names})


LOG_DOORS = {
    "pandas": lambda frame, tmp: frame,
    "pandas nullable": lambda frame, tmp: frame.convert_dtypes(),
    "pandas pyarrow": lambda frame, tmp: frame.convert_dtypes(dtype_backend="pyarrow"),
    "pandas floats": lambda frame, tmp: frame.astype({"customer": float, "product": float}),
    "pandas objects": lambda frame, tmp: frame.astype(object),
    "pandas texts": lambda frame, tmp: as_text(frame, ["customer", "product"]),
    "pandas texts of floats": lambda frame, tmp: as_text(frame.astype({"product": float}), ["product"]),
    "pandas times": lambda frame, tmp: frame.assign(ts=pd.to_datetime(frame["ts"], unit="h", utc=True)),
    "polars": lambda frame, tmp: pl.from_pandas(frame),
    "polars lazy": lambda frame, tmp: pl.from_pandas(frame).lazy(),
    "pyarrow": lambda frame, tmp: pa.Table.from_pandas(frame),
    "duckdb": lambda frame, tmp: duckdb.from_df(frame),
    "numpy": lambda frame, tmp: {name: frame[name].to_numpy() for name in frame},
    "lists": lambda frame, tmp: {name: frame[name].tolist() for name in frame},
    "csv": lambda frame, tmp: written(frame.to_csv, tmp / "log.csv", index=False),
    "tsv.gz": lambda frame, tmp: written(frame.to_csv, tmp / "log.tsv.gz", sep="\t", index=False),
    "csv of floats": lambda frame, tmp: written(frame.astype({"product": float}).to_csv, tmp / "f.csv", index=False),
    "jsonl": lambda frame, tmp: written(frame.to_json, tmp / "log.jsonl", orient="records", lines=True),
    "parquet": lambda frame, tmp: written(frame.to_parquet, tmp / "log.parquet"),
}
UNTYPED = ("csv", "tsv.gz", "csv of floats", "pandas texts", "pandas texts of floats")  # ids come back as texts


def written(write, path, **options):
    write(path, **options)
    return path


def weights_of(model):
    state = model.state_dict()
    return {name: state[name].numpy().tobytes() for name in sorted(state)}


@pytest.fixture(scope="module")
def reference():
    return fit_log(events())


def fit_log(log):
    small = {"train.epochs": 1, "model.embedding_width": 8, "train.threads": 1, "data.history": 4}
    return Recommender(model="transformer", next_items=2, settings=small).fit(log)


@pytest.mark.parametrize("door", LOG_DOORS)
def test_a_log_trains_the_same_weights_through_every_door(reference, tmp_path, door):
    source = LOG_DOORS[door](events(), tmp_path)
    fitted = fit_log(source)
    assert weights_of(fitted.model_) == weights_of(reference.model_)
    answer = fitted.recommend([[100, 101]], k=3)
    expected = reference.recommend([[100, 101]], k=3)
    assert all(type(item) is int for item in expected[0])
    assert answer == ([[str(item) for item in expected[0]]] if door in UNTYPED else expected)
    for history in ([["100", "101"]], [[100.0, 101.0]], [["100.0", np.int64(101)]]):
        assert fitted.recommend(history, k=3) == answer


@pytest.mark.parametrize("door", LOG_DOORS)
def test_a_run_reads_the_same_through_every_door(reference, tmp_path, door):
    source = LOG_DOORS[door](events(), tmp_path)
    assert reference.evaluate(source)["scores"] == reference.evaluate(events())["scores"]


def test_rows_with_a_hole_are_left_out_and_the_others_train_the_same(reference, caplog):
    holes = pd.DataFrame({"customer": [None, 1_000, 1_000], "product": [100, None, 100], "ts": [0, 0, None]})
    fitted = fit_log(pd.concat([holes, events()], ignore_index=True))
    assert weights_of(fitted.model_) == weights_of(reference.model_)
    assert fitted.metrics_["data"]["incomplete"] == 3
    assert fitted.recommend([[100, 101]], k=3) == reference.recommend([[100, 101]], k=3)
    assert "frame: 3 of 243 rows have no user, item or order; left out" in caplog.text


@pytest.mark.parametrize("door", LOG_DOORS)
def test_predictions_are_a_frame_of_the_same_library_with_the_same_ids(reference, tmp_path, door):
    source = LOG_DOORS[door](events(), tmp_path)
    predicted = reference.predict(source, k=1).frame
    library = type(source).__module__.partition(".")[0]
    own = library in ("pandas", "pyarrow", "duckdb", "_duckdb")
    assert type(predicted).__module__.partition(".")[0] == (library if own else "polars")
    rows = pl.from_arrow(predicted.to_arrow_table()) if "duckdb" in library else as_frame(predicted)
    assert rows.columns == ["customer", "product", "rank", "score", "known"]
    assert rows["product"].dtype == pl.Int64
    came_as_text = door in ("csv", "tsv.gz", "csv of floats", "pandas texts")
    assert rows["customer"].dtype == (pl.String if came_as_text else pl.Int64)
    assert rows["customer"].n_unique() == 40


@pytest.mark.parametrize("door", ["pandas nan", "polars", "pyarrow", "duckdb", "csv"])
def test_predictions_of_documents_are_too(classifier, tmp_path, door):
    source = DOCUMENT_DOORS[door](documents(), tmp_path)
    predicted = classifier.predict_documents(source)
    library = type(source).__module__.partition(".")[0]
    assert type(predicted).__module__.partition(".")[0] == ("polars" if door == "csv" else library)
    assert list(getattr(predicted, "column_names", None) or predicted.columns) == [
        "number",
        "labels",
        "scores",
        "known",
    ]


def documents():
    """Return 90 documents with one to two labels; every column has missing values."""
    names = list(WORDS)
    rows = [
        {
            "number": place,
            "title": None if place % 7 == 0 else f"{names[place % 3]} note",
            "body": None if place % 11 == 0 else f"{WORDS[names[place % 3]]} {WORDS[names[(place // 3) % 3]]}",
            "tags": None if place % 9 == 0 else "|".join(sorted({names[place % 3], names[(place // 3) % 3]})),
            "source": None if place % 5 == 0 else f"s{place // 4}",
        }
        for place in range(90)
    ]
    return pd.DataFrame(rows)


def with_lists(frame):
    return frame.assign(tags=[tags.split("|") if isinstance(tags, str) else None for tags in frame["tags"]])


TEXTS = ["title", "body", "tags", "source"]
DOCUMENT_DOORS = {
    **{
        f"pandas {dtype}": (lambda frame, tmp, dtype=dtype: frame.astype(dict.fromkeys(TEXTS, dtype)))
        for dtype in TEXT_DTYPES
    },
    "pandas nan": lambda frame, tmp: frame.astype(object).where(frame.notna(), np.nan),
    "pandas NA": lambda frame, tmp: frame.astype(object).where(frame.notna(), pd.NA),
    "pandas lists": lambda frame, tmp: with_lists(frame),
    "polars": lambda frame, tmp: pl.from_pandas(frame),
    "polars lists": lambda frame, tmp: pl.from_pandas(with_lists(frame)),
    "pyarrow": lambda frame, tmp: pa.Table.from_pandas(frame),
    "duckdb": lambda frame, tmp: duckdb.from_df(frame),
    "lists": lambda frame, tmp: {name: frame[name].tolist() for name in frame},
    "csv": lambda frame, tmp: written(frame.to_csv, tmp / "docs.csv", index=False),
    "jsonl": lambda frame, tmp: written(frame.to_json, tmp / "docs.jsonl", orient="records", lines=True),
    "jsonl lists": lambda frame, tmp: written(with_lists(frame).to_json, tmp / "d.jsonl", orient="records", lines=True),
    "parquet": lambda frame, tmp: written(frame.to_parquet, tmp / "docs.parquet"),
    "parquet lists": lambda frame, tmp: written(with_lists(frame).to_parquet, tmp / "lists.parquet"),
}


def fit_documents(source):
    columns = {"data.text": ["title", "body"], "data.labels": "tags", "data.id": "number", "data.group": "source"}
    small = {"train.epochs": 1, "head.width": 8, "train.threads": 1, "features.min_documents": 1}
    return MultiLabelClassifier(features="ngrams", settings=columns | small).fit(source)


@pytest.fixture(scope="module")
def classifier():
    return fit_documents(documents())


@pytest.mark.parametrize("door", DOCUMENT_DOORS)
def test_documents_train_the_same_weights_through_every_door(classifier, tmp_path, door):
    fitted = fit_documents(DOCUMENT_DOORS[door](documents(), tmp_path))
    assert fitted.classes_.tolist() == ["beer", "tea", "wine"]
    assert weights_of(fitted.head_) == weights_of(classifier.head_)
    missing = {column.name: column.missing for column in fitted.fit_.model.plan.columns}
    assert missing == {"title": 13, "body": 9, "tags": 10, "number": 0, "source": 18}


@pytest.mark.parametrize("door", DOCUMENT_DOORS)
def test_a_run_scores_the_same_through_every_door(classifier, tmp_path, door):
    sources = (DOCUMENT_DOORS[door](documents(), tmp_path), documents())
    through_door, expected = (json.dumps(classifier.evaluate(source)) for source in sources)  # a nan equals itself
    assert through_door == expected


ids = st.one_of(
    st.integers(0, 50).map(str),
    st.sampled_from(["007", "1.5", "NaN", "None", "nan", "null", "é", " a ", "a,b", 'a"b', "x" * 40, "-3", "9" * 25]),
    st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), min_size=1, max_size=6),
)
holes = st.one_of(st.none(), st.text("ab \n,\"'", max_size=5))


@quick
@given(st.lists(st.tuples(ids, ids, st.integers(0, 5), holes), min_size=1, max_size=12), st.sampled_from(TEXT_DTYPES))
def test_any_ids_are_read_alike(tmp_path_factory, rows, dtype):
    frame = pd.DataFrame(rows, columns=["user", "item", "order", "comment"])
    frame["order"] += 1_700_000_000  # times, which may be equal
    frame = frame.astype({"user": dtype, "item": dtype, "comment": dtype})
    folder = tmp_path_factory.mktemp("log")
    expected = as_log({"user": [row[0] for row in rows], "item": [row[1] for row in rows], "order": frame["order"]})
    for source in (
        frame,
        pl.from_pandas(frame.astype({"user": "str", "item": "str", "comment": "str"})),
        written(frame.to_csv, folder / "a.csv", index=False),
        written(frame.to_json, folder / "a.jsonl", orient="records", lines=True),
        written(frame.to_parquet, folder / "a.parquet"),
    ):
        log = as_log(source)
        assert_series_equal(log.users, expected.users, check_names=False)
        assert_series_equal(log.items, expected.items, check_names=False)
        assert log.offsets.tolist() == expected.offsets.tolist()
        assert (log.plan.kind("user"), log.plan.kind("item")) == (
            expected.plan.kind("user"),
            expected.plan.kind("item"),
        )


labels = st.text(
    st.characters(codec="utf-8", exclude_characters="|;,", exclude_categories=("C", "Z")), min_size=1, max_size=5
)
texts = st.one_of(st.none(), st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), max_size=10))


@quick
@given(
    st.lists(st.tuples(texts, st.lists(labels, max_size=3, unique=True)), min_size=2, max_size=8),
    st.sampled_from(TEXT_DTYPES),
)
def test_any_texts_and_labels_are_read_alike(tmp_path_factory, rows, dtype):
    assume(any(len(names) > 1 for _, names in rows))
    assume(all(text or names for text, names in rows))  # a row of empty fields is a blank line of a CSV file
    assume(not any(name[0] in "[({" for _, names in rows for name in names))
    frame = pd.DataFrame({"text": [text for text, _ in rows], "labels": ["|".join(names) or None for _, names in rows]})
    frame = frame.astype(dtype)
    folder = tmp_path_factory.mktemp("documents")
    lists = [{"text": text, "labels": names} for text, names in rows]
    (folder / "lists.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lists), encoding="utf-8")
    for source in (
        frame,
        pl.DataFrame(lists, schema={"text": pl.String, "labels": pl.List(pl.String)}),
        written(frame.to_csv, folder / "a.csv", index=False),
        written(frame.to_json, folder / "a.jsonl", orient="records", lines=True),
        written(frame.to_parquet, folder / "a.parquet"),
        folder / "lists.jsonl",
    ):
        read = as_documents(source)
        assert read.labels.to_list() == [names for _, names in rows]
        assert [text.strip() for text in read.texts.to_list()] == [(text or "").strip() for text, _ in rows]
