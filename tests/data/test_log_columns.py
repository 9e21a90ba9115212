from pathlib import Path

import pytest

from hyperfocal.config.recommend import DataSettings
from hyperfocal.data.files import MEMORY, File
from hyperfocal.data.log_columns import Columns, find_columns
from hyperfocal.errors import DataError

LOG = File(Path("log.csv"))


def find(*found: str, **named: str) -> tuple[str, str, str | None]:
    columns = find_columns(list(found), DataSettings(**named), LOG)
    return columns.user, columns.item, columns.order


def error(*found: str, **named: str) -> str:
    with pytest.raises(DataError) as caught:
        find(*found, **named)
    assert str(caught.value).startswith("log.csv: ")
    return str(caught.value).removeprefix("log.csv: ")


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (("user", "item", "position"), ("user", "item", "position")),
        (("position", "item", "user"), ("user", "item", "position")),  # known names go before places
        (("student", "course", "position"), ("student", "course", "position")),
        (("Session_ID", "TimeStamp", "Product_Id", "price"), ("Session_ID", "Product_Id", "TimeStamp")),
        (("user", "item"), ("user", "item", None)),  # two columns: the order of the file
        (("who", "what", "when"), ("who", "what", "when")),  # three unknown ones: by place
        (("when", "user", "what"), ("user", "when", "what")),
        (("who", "what"), ("who", "what", None)),
        (("user_id", "user", "item", "time"), ("user", "item", "time")),  # the likelier name first
        (("User", "user", "item", "time"), ("User", "item", "time")),  # of two alike, the first column
        (("item", "order", "user", "user_id", "x"), ("user", "item", "order")),
    ],
)
def test_columns_are_found(found, expected):
    assert find(*found) == expected


@pytest.mark.parametrize(
    ("named", "expected"),
    [
        ({"user": "b"}, ("b", "a", "c")),
        ({"order": "a"}, ("b", "c", "a")),
        ({"user": "c", "item": "a", "order": "b"}, ("c", "a", "b")),
    ],
)
def test_named_columns_win(named, expected):
    assert find("a", "b", "c", **named) == expected


def test_a_named_column_frees_its_known_name():
    assert find("user", "item", "user_id", "time", user="user_id", item="user") == ("user_id", "user", "time")


def test_a_named_order_in_two_columns():
    assert error("user", "item", user="item", item="user", order="when").startswith("no column 'when'.")


@pytest.mark.parametrize("role", ["user", "item", "order"])
def test_a_missing_column_lists_columns_and_the_nearest(role):
    message = error("student_nr", "course", "position", **{role: "student_no"})
    assert message == ("no column 'student_no'. Did you mean 'student_nr'? Columns found: student_nr, course, position")


@pytest.mark.parametrize(
    ("found", "role"),
    [
        (("a", "b", "c", "d"), "user"),
        (("user", "b", "c", "d"), "item"),
        (("user", "item", "c", "d"), "order"),
        (("user",), "item"),
        ((), "user"),
    ],
)
def test_no_telling_which_column(found, role):
    assert error(*found) == (
        f"cannot tell which column is the {role}. Name it with `{role}=`. Columns found: {', '.join(found)}"
    )


@pytest.mark.parametrize(
    "named",
    [{"user": "user", "item": "user"}, {"item": "item", "order": "item"}, {"user": "time", "order": "time"}],
)
def test_one_column_in_two_roles(named):
    name = next(iter(named.values()))
    assert error("user", "item", "time", "x", **named) == (
        f"column '{name}' cannot be two of user, item and order. Name one column for each"
    )


@pytest.mark.parametrize("first_line", [("a", "b", "1"), ("17", "004", "2024"), ("u", "-1.5", "i")])
def test_a_row_in_place_of_a_header(first_line):
    message = error(*first_line)
    assert message.startswith(f"the first line looks like a row, not a header: {', '.join(first_line)}. Add a header")


def test_numbers_may_name_columns():
    assert find("0", "1", "2", user="2", item="0", order="1") == ("2", "0", "1")
    assert find_columns(["0", "1", "2"], DataSettings(), MEMORY) == Columns("0", "1", "2")  # no file, no first line
    assert find_columns(["0", "1"], DataSettings(), File(Path("log.parquet"))) == Columns("0", "1", None)
