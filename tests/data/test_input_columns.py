"""Fields and vectors of documents: what is read, and what is refused with file and row."""

import json

import numpy as np
import pandas as pd
import polars as pl
import pytest

from hyperfocal.config.classify import TextDataSettings
from hyperfocal.data.documents import as_documents
from hyperfocal.data.input_columns import joined_columns
from hyperfocal.errors import DataError

FRAME = {
    "text": ["red wine", "beer"],
    "labels": [["wine"], ["beer"]],
    "section": ["drinks", None],
    "price": [2.5, None],
    "day": ["1970-01-03", ""],
    "topics": ["a, b", ""],
    "image": [[1.0, 2.0], [3.0, 4.0]],
}
FIELDS = ("section", "price", "day", "topics:list")


def read(frame, need="all", **settings):
    return as_documents(frame, TextDataSettings(**settings), need=need)


def written(tmp_path, rows):
    path = tmp_path / "docs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


class TestReading:
    def test_kinds_are_named_or_those_that_the_values_suggest(self):
        columns = read(FRAME, fields=FIELDS, vectors=("image",)).columns
        assert dict(columns.kinds) == {"section": "category", "price": "number", "day": "date", "topics": "list"}
        assert columns.fields["section"].to_list() == [["drinks"], []]
        assert columns.fields["topics"].to_list() == [["a", "b"], []]
        assert columns.fields["day"].fill_nan(None).to_list() == [2.0, None]
        assert columns.fields["price"].fill_nan(None).to_list() == [2.5, None]
        assert columns.vectors["image"].tolist() == [[1, 2], [3, 4]]

    def test_a_file_pandas_and_polars_are_the_same(self, tmp_path):
        rows = pl.DataFrame(FRAME).to_dicts()
        sources = (written(tmp_path, rows), pl.DataFrame(FRAME), pd.DataFrame(FRAME), pl.DataFrame(FRAME).to_arrow())
        checksums = {read(each, fields=FIELDS, vectors=("image",)).columns.checksum() for each in sources}
        assert len(checksums) == 1

    @pytest.mark.parametrize(
        "vectors",
        [["[1, 2]", "3 4"], [np.array([1, 2]), np.array([3, 4])], [(1.0, 2), (3, 4.0)], pl.Series([[1, 2], [3, 4]])],
    )
    def test_forms_of_vectors(self, vectors):
        columns = read(FRAME | {"image": vectors}, vectors=("image",)).columns
        assert columns.vectors["image"].tolist() == [[1, 2], [3, 4]]

    def test_a_missing_vector_is_zeros(self):
        columns = read(FRAME | {"image": [None, [1.0, 2.0]]}, vectors=("image",)).columns
        assert columns.vectors["image"].tolist() == [[0, 0], [1, 2]]

    def test_no_text_is_needed_with_a_field(self):
        documents = read({"labels": [["a"], ["b"]], "section": ["x", "y"]}, fields=("section",))
        assert not documents.has_texts
        assert documents.counts() == {"documents": 2, "empty_texts": 0, "without_labels": 0, "duplicate_texts": 0}

    def test_the_plan_reads_another_file_with_the_kinds_of_training(self):
        plan = read(FRAME, fields=("price:category",), vectors=("image",)).plan
        again = as_documents({"text": ["x"], "price": [2.50], "image": [[5, 6]]}, plan, need="texts").columns
        assert again.fields["price"].to_list() == [["2.5"]]
        assert again.vectors["image"].tolist() == [[5, 6]]

    def test_a_column_in_another_letter_case_has_the_name_of_the_plan(self):
        plan = read(FRAME, fields=("section", "price"), vectors=("image",)).plan
        other = {"TEXT": ["x"], "Section": ["drinks"], "PRICE": [3], "Image": [[5, 6]]}
        documents = as_documents(other, plan, need="texts")
        assert dict(documents.columns.kinds) == {"section": "category", "price": "number"}
        assert documents.columns.fields["section"].to_list() == [["drinks"]]
        assert documents.columns.vectors["image"].tolist() == [[5, 6]]
        assert documents.plan.names("field") == ("section", "price")

    def test_vectors_of_whole_and_other_numbers(self, tmp_path):
        vectors = [[1, 0.5], [2, 3]]
        file = written(tmp_path, [{"text": "x", "labels": ["a"], "image": vector} for vector in vectors])
        for source in (FRAME | {"image": vectors}, file):
            assert read(source, vectors=("image",)).columns.vectors["image"].tolist() == vectors

    def test_whole_numbers_are_the_same_category_with_and_without_a_missing_value(self):
        codes = [pd.Series([3, 12]), pd.Series([3, None, 12]), pd.Series([3, 12], dtype="float32"), [3.0, 12]]
        for each in codes:
            frame = {"text": ["a"] * len(each), "labels": [["a"]] * len(each), "code": each}
            rows = read(frame, fields=("code:category",)).columns.fields["code"].to_list()
            assert [value for row in rows for value in row] == ["3", "12"]
        lists = {"text": ["a", "b"], "labels": [["a"], ["b"]], "codes": [[3.0, 12.0], [0.5, None]]}
        assert read(lists, fields=("codes:list",)).columns.fields["codes"].to_list() == [["3", "12"], ["0.5"]]

    def test_booleans_are_a_category_in_json_and_csv(self, tmp_path):
        jsonl = written(tmp_path, [{"text": "x", "labels": ["a"], "new": value} for value in (True, False)])
        csv = tmp_path / "docs.csv"
        csv.write_text("text,labels,new\nx,a,true\nx,a,false\n")
        first, second = (read(path, fields=("new",)).columns for path in (jsonl, csv))
        assert dict(first.kinds) == dict(second.kinds) == {"new": "category"}
        assert first.fields["new"].to_list() == second.fields["new"].to_list() == [["true"], ["false"]]

    def test_a_field_is_not_read_as_a_text_too(self):
        frame = {"title": ["x", "y"], "body": ["a b", "c d"], "labels": [["a"], ["b"]]}
        documents = read(frame, fields=("title",))
        assert documents.plan.names("text") == ("body",)
        assert documents.all_texts().to_list() == ["a b", "c d"]

    def test_a_cell_that_turns_a_column_of_numbers_into_a_category_is_logged(self, tmp_path, caplog):
        path = tmp_path / "docs.csv"
        path.write_text("text,labels,price\nx,a,1.5\nx,a,n/a\nx,a,3\n")
        assert dict(read(path, fields=("price",)).columns.kinds) == {"price": "category"}
        assert (
            "docs.csv line 3: column 'price' is read as a category because of values such as 'n/a', but 2 of 3 values "
            "are numbers. Correct the others and name it price:number" in caplog.text
        )

    def test_rows_are_selected_and_joined(self):
        columns = read(FRAME, fields=FIELDS, vectors=("image",)).columns
        parts = [columns.select(np.array([row])) for row in (1, 0)]
        joined = joined_columns(parts)
        assert joined.checksum() == columns.select(np.array([1, 0])).checksum() != columns.checksum()


class TestRefusing:
    def test_a_vector_of_another_length_in_row_17(self, tmp_path):
        rows = [{"labels": ["a"], "v": [0.5] * (2 if row == 17 else 3)} for row in range(1, 20)]
        with pytest.raises(DataError, match=r"docs\.jsonl line 17: column 'v' has a vector of 2 numbers, and the oth"):
            read(written(tmp_path, rows), vectors=("v",))

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), None, 1e300])
    def test_a_value_that_is_not_finite(self, value):
        with pytest.raises(DataError, match="row 1: column 'image' has a vector with a value that is not a finite"):
            read(FRAME | {"image": [[1.0, 2.0], [3.0, value]]}, vectors=("image",))

    def test_words_in_place_of_vectors(self):
        with pytest.raises(DataError, match="column 'text' has a vector"):
            read({"text": ["red wine", "white wine"], "labels": [["a"], ["b"]]}, vectors=("text",))

    def test_a_number_that_is_none_in_a_file_of_a_run(self):
        plan = read(FRAME, fields=("price",)).plan
        with pytest.raises(
            DataError, match=r"row 1: column 'price': 1 value is not a number, such as 'x'. Correct it$"
        ):
            as_documents({"text": ["a", "b"], "price": [1, "x"]}, plan, need="texts")

    def test_no_vector_at_all(self):
        with pytest.raises(DataError, match="column 'image' has no vector"):
            read(FRAME | {"image": [None, None]}, vectors=("image",))

    @pytest.mark.parametrize(
        ("settings", "words"),
        [
            ({"fields": ("labels",)}, "the model would read its answer"),
            ({"vectors": ("image", "image")}, "column 'image' is named twice"),
            (
                {"fields": ("section:colour",)},
                "'colour' is not a kind of column. Allowed: category",
            ),
            ({"fields": ("sections",)}, "no column 'sections'. Did you mean 'section'"),
            ({"vectors": ("images",)}, r"no column 'images' \(`vectors=`\)"),
            (
                {"fields": ("section:number",)},
                "row 0: column 'section': 1 value is not a number, such as 'drinks'. Correct it, or read the column as",
            ),
            ({"text": ("text", "section"), "fields": ("section",)}, "cannot be both `text=` and one of `fields=`"),
            ({"fields": ("image:number",)}, "column 'image' holds lists, not a number"),
        ],
    )
    def test_a_wrong_name_or_kind(self, settings, words):
        with pytest.raises(DataError, match=words):
            read(FRAME, **settings)

    def test_a_field_that_is_a_text(self):
        texts = [f"the quick brown fox jumps over the lazy dog {number}" for number in range(30)]
        with pytest.raises(DataError, match=r"Read it as a text \(`text=`\)"):
            read({"labels": [["a"]] * 30, "body": texts}, fields=("body",))

    def test_a_column_of_the_run_that_is_missing(self):
        plan = read(FRAME, fields=("section",)).plan
        with pytest.raises(DataError, match="no column 'section', from which this run reads a field"):
            as_documents({"text": ["x"]}, plan, need="texts")
