"""Conditions on columns of the item table, against the items that a person would choose."""

import datetime

import polars as pl
import pytest

from hyperfocal.data.item_table import read_items
from hyperfocal.errors import ConfigError, DataError
from hyperfocal.recommend.filters import Condition, parse, satisfying
from hyperfocal.recommend.item_columns import ItemColumns

TABLE = pl.DataFrame(
    {
        "item": ["a", "b", "c", "d", "e"],
        "price": [5.0, 20.0, 19.99, None, 100.0],
        "in_stock": [True, False, True, True, None],
        "sold": ["yes", "no", "no", None, "yes"],
        "brand": ["Ann's, Ltd", "Bo", "bo", "Bo", None],
        "tags": [["red", "new"], ["red"], ["blue"], [], None],
        "kinds": ["shoes|bags", "bags", "hats", "shoes|hats", None],
        "since": [datetime.date(2024, 1, 1), datetime.date(2024, 5, 1), None, datetime.date(2025, 1, 1), None],
        "year": ["2024-01-01", "2024-05-01", None, "2025-01-01", None],
        "made in": ["Rome", "Bonn", "Rome", "Bonn", "Rome"],
    }
)
COLUMNS = ItemColumns(read_items(TABLE), pl.Series("item", ["a", "b", "c", "d", "e", "not in the table"]))
ANSWERS = {
    ("price < 20",): "ac",
    ("price<=20",): "abc",
    ("price > 20",): "e",
    ("price >= 5", "price != 100"): "abc",
    ("price = 5.0",): "a",
    ("price in [5, 100]",): "ae",
    ("price not in (5, 100)",): "bc",
    ("in_stock = true",): "acd",
    ("in_stock = FALSE",): "b",
    ("in_stock != true",): "b",
    ("sold = true",): "ae",
    ("sold = no",): "bc",
    ("brand = Bo",): "bd",
    ("brand == 'Bo'",): "bd",
    ("brand != Bo",): "ac",
    ('brand in ["Ann\'s, Ltd", bo]',): "ac",
    ("tags = red",): "ab",
    ("tags in [new, blue]",): "ac",
    ("tags not in [red]",): "c",
    ("kinds = bags",): "ab",
    ("kinds = shoes|hats",): "d",
    ("kinds not in [hats]",): "ab",
    ("since < 2024-05-01",): "a",
    ("since >= 2024-05-01",): "bd",
    ("year > 2024-05-01",): "d",
    ("made in in [Rome]",): "ace",
    ('"made in" = Bonn',): "bd",
    ("made in not in Rome, Bonn",): "",
    (): ["a", "b", "c", "d", "e", "not in the table"],
}


@pytest.mark.parametrize("filters", ANSWERS, ids=" and ".join)
def test_the_items_that_satisfy_them(filters):
    assert COLUMNS.ids.filter(pl.Series(satisfying(filters, COLUMNS))).to_list() == list(ANSWERS[filters])


REFUSED = {
    "prize < 3": (ConfigError, "no column 'prize'. Its columns: price, in_stock"),
    "price": (ConfigError, r"'price' is no condition\. Expected such as"),
    "": (ConfigError, "'' is no condition"),
    "price <": (ConfigError, "has no value"),
    "tags in []": (ConfigError, "has no value"),
    "price < cheap": (DataError, "1 value is not a number, such as 'cheap'"),
    "since < May": (DataError, "1 value is not a date, such as 'May'"),
    "in_stock = maybe": (DataError, "'maybe' is neither true nor false"),
    "brand < Bo": (ConfigError, "column 'brand' holds texts, which < cannot compare. Use = or in"),
}


@pytest.mark.parametrize("text", REFUSED)
def test_what_is_refused(text):
    error, message = REFUSED[text]
    with pytest.raises(error, match=message):
        satisfying([text], COLUMNS)


def test_a_condition_that_is_no_text():
    with pytest.raises(ConfigError, match="3 is not a text"):
        satisfying([3], COLUMNS)


def test_the_longest_sign_at_a_place_counts():
    assert parse("a<=1", ["a"]) == Condition("a", "<=", ["1"])
    assert parse("a not  in [1]", ["a"]) == Condition("a", "not in", ["1"])
    assert parse("x in y = 1", ["x in y"]) == Condition("x in y", "in", ["1"])


@pytest.mark.parametrize(
    ("name", "same"),
    [
        ("price", [["a"], ["b"], ["c"], ["e"]]),
        ("brand", [["a"], ["b", "d"], ["c"]]),
        ("tags", [["a", "b"], ["a"], ["c"]]),
    ],
)
def test_values_that_items_share(name, same):
    values = COLUMNS.values(name)
    numbers = sorted({number for row in values for number in row})
    groups = [[COLUMNS.ids[place] for place, row in enumerate(values) if number in row] for number in numbers]
    assert sorted(groups) == sorted(same)


def test_titles_are_a_column_of_a_known_name():
    table = read_items(pl.DataFrame({"item": ["a", "b"], "Name": ["Ann", None], "price": [1, 2]}))
    assert ItemColumns(table, pl.Series(["b", "a"])).titles == [None, "Ann"]
    assert COLUMNS.titles == []
