"""Tables of items: the kinds of columns, their numbers, and errors."""

import datetime as dt
import math

import msgspec
import numpy as np
import polars as pl
import pytest

from hyperfocal.data.field_columns import FieldColumn
from hyperfocal.data.item_table import encode_items, fit_columns, read_items
from hyperfocal.errors import DataError

FRAME = pl.DataFrame(
    {
        "item": ["a", "b", "c", "d"],
        "language": ["py", "py", "c++", None],
        "topics": ["graphs dp", "dp", "graphs", ""],
        "points": ["10", "20", None, "30"],
        "made": ["2020-01-01", "2020-01-11", "2020-01-21", "2020-01-31"],
        "story": ["A long story of many words and some more of them"] * 3 + ["A short story of many words and so on"],
    }
)
IDS = pl.Series("item", ["a", "b", "c", "d"])


def fitted(*wanted: str, frame: pl.DataFrame = FRAME):
    table = read_items(frame)
    columns, constant = fit_columns(table, wanted or table.frame.columns, IDS)
    return table, columns, constant


class TestKinds:
    def test_are_told_from_the_values(self):
        _, columns, _ = fitted()
        assert {column.name: column.kind for column in columns} == {
            "language": "category",
            "topics": "list",
            "points": "number",
            "made": "date",
            "story": "text",
        }

    def test_are_what_one_says(self):
        _, columns, _ = fitted("points:category", "topics:text")
        assert [column.kind for column in columns] == ["category", "text"]

    @pytest.mark.parametrize(
        ("values", "kind"),
        [
            ([1, 2, 3, 4], "number"),
            ([True, False, True, None], "number"),
            ([["x"], ["y", "x"], [], None], "list"),
            ([dt.date(2020, 1, day) for day in (1, 2, 3, 4)], "date"),
            ([f"T{n} " * 12 + f"T{n + 1}" for n in range(4)], "list"),  # ids, however many
        ],
    )
    def test_of_typed_columns(self, values, kind):
        frame = pl.DataFrame({"item": IDS, "x": values}, strict=False)
        assert fitted(frame=frame)[1][0].kind == kind


class TestNumbers:
    def test_of_bags_written_out(self):
        table, columns, _ = fitted("topics")
        bags, numbers = encode_items(columns, table, IDS)
        assert list(columns[0].values) == ["graphs", "dp"]
        assert bags.toarray().tolist() == [[0.5, 0.5], [0, 1], [1, 0], [0, 0]]
        assert numbers[:, 1].tolist() == [0, 0, 0, 1]  # missing
        assert numbers[3, 0] == 0

    def test_how_many_items_share_a_value(self):
        """Two items in Python and one in C++: ln 3, ln 3, ln 2, standardized."""
        table, columns, _ = fitted("language")
        _, numbers = encode_items(columns, table, IDS)
        logs = np.log([3, 3, 2])
        np.testing.assert_allclose(numbers[:3, 0], (logs - logs.mean()) / logs.std(), rtol=1e-5)

    def test_of_numbers_and_dates(self):
        table, columns, _ = fitted("points", "made")
        _, numbers = encode_items(columns, table, IDS)
        spread = math.sqrt(2 / 3) * 10
        np.testing.assert_allclose(numbers[:, 0], [-10 / spread, 0, 0, 10 / spread], rtol=1e-5)
        assert numbers[:, 1].tolist() == [0, 0, 1, 0]
        np.testing.assert_allclose(numbers[:, 2], np.array([-1.5, -0.5, 0.5, 1.5]) / math.sqrt(1.25), rtol=1e-5)

    def test_of_text_have_length_one(self):
        table, columns, _ = fitted("story")
        bags, _ = encode_items(columns, table, IDS)
        np.testing.assert_allclose(np.sqrt(bags.multiply(bags).sum(1)), 1, rtol=1e-6)

    def test_of_text_count_words_and_neighbouring_pairs(self):
        frame = pl.DataFrame({"item": IDS, "story": ["a red fox", "the red fox", "fox red", None]})
        _, columns, _ = fitted("story:text", frame=frame)
        pairs = {value: count for value, count in columns[0].values.items() if " " in value}
        assert pairs == {"red fox": 2, "a red": 1, "the red": 1, "fox red": 1}

    def test_of_new_items_and_new_values(self):
        _table, columns, _ = fitted("language", "points")
        new = read_items(pl.DataFrame({"item": ["z"], "language": ["cobol"], "points": ["20"]}))
        bags, numbers = encode_items(columns, new, pl.Series(["z", "absent"]))
        assert bags.nnz == 0
        assert numbers.tolist() == [[0, 1, 0, 0], [0, 1, 0, 1]]

    def test_columns_survive_json(self):
        table, columns, _ = fitted()
        again = msgspec.json.decode(msgspec.json.encode(columns), type=list[FieldColumn])
        for ours, theirs in zip(encode_items(columns, table, IDS), encode_items(again, table, IDS), strict=True):
            assert (ours != theirs).sum() == 0


class TestWhatIsWrong:
    def test_a_second_row_of_an_item_fills_the_first(self):
        frame = pl.DataFrame({"item": ["a", "a", "b"], "x": ["", "1", "2"], "y": ["u", "v", "w"]})
        table = read_items(frame)
        assert table.duplicates == 1
        assert table.frame.rows() == [("1", "u"), ("2", "w")]

    def test_a_constant_column_is_left_out(self):
        _, columns, constant = fitted(frame=FRAME.with_columns(same=pl.lit("x"), seven=7, none=pl.lit("")))
        assert constant == ["same", "seven", "none"]
        assert len(columns) == 5

    @pytest.mark.parametrize(
        ("wanted", "message"),
        [
            (["langage"], "no column 'langage'. Did you mean 'language'"),
            (["language:words"], "'words' is not a kind of column. Allowed: category, list, text, number, date"),
            (["language:number"], "column 'language': 3 values are not a number, such as 'py'"),
            (["language:date"], "3 values are not a date, such as 'py'"),
        ],
    )
    def test_a_column(self, wanted, message):
        with pytest.raises(DataError, match=message):
            fitted(*wanted)

    def test_nothing_varies(self):
        with pytest.raises(DataError, match="at most one value for all 4 training items"):
            fitted("x", frame=pl.DataFrame({"item": IDS, "x": ["1"] * 4}))

    def test_a_table_of_other_items(self):
        with pytest.raises(DataError, match="check that the item ids are those of the log"):
            fit_columns(read_items(FRAME), ["language"], pl.Series(["q", "r"]))

    def test_an_item_without_an_id(self, tmp_path):
        (tmp_path / "items.csv").write_text("item,x\na,1\n,2\n")
        with pytest.raises(
            DataError, match=r"items\.csv line 3: no value in column 'item'. Every row needs an item id"
        ):
            read_items(tmp_path / "items.csv")

    def test_an_index_without_a_name_is_no_item(self, tmp_path):
        (tmp_path / "items.csv").write_text(",item,x\n0,a,1\n1,b,2\n")
        assert read_items(tmp_path / "items.csv").ids.to_list() == ["a", "b"]

    def test_something_else(self):
        with pytest.raises(DataError, match=r"int is not a source of rows\. Give a path, a frame .*, or ItemTable"):
            read_items(7)

    def test_ids_alone(self):
        with pytest.raises(DataError, match="the only column is 'item'"):
            read_items(FRAME.select("item"))

    def test_a_column_that_new_items_lack(self):
        _, columns, _ = fitted("language")
        with pytest.raises(DataError, match="no column 'language', which the run was trained with"):
            encode_items(columns, read_items(FRAME.select("item", "points")), IDS)


def test_a_run_of_an_earlier_version_knows_its_whole_floats():
    frame = pl.DataFrame({"item": IDS, "x": [1.0, 2.0, 2.0, None]})
    table, columns = read_items(frame), fitted("x:category", frame=frame)[1]
    assert columns[0].values == {"2": 2, "1": 1}
    earlier = msgspec.structs.replace(columns[0], values={"2.0": 2, "1.0": 1})
    bags = [encode_items([column], table, IDS)[0].toarray().tolist() for column in (columns[0], earlier)]
    assert bags[0] == bags[1] == [[0, 1], [1, 0], [1, 0], [0, 0]]
