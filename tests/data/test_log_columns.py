import re
from pathlib import Path

import polars as pl
import pytest

from hyperfocal.config.recommend import DataSettings
from hyperfocal.data.files import MEMORY, File
from hyperfocal.data.log_columns import Columns, OrderReader, find_columns
from hyperfocal.data.logs import log_from_frame
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
    assert error("user", "item", user="item", item="user", order="when").startswith("no column 'when' (`order=`).")


@pytest.mark.parametrize("role", ["user", "item", "order"])
def test_a_missing_column_lists_columns_and_the_nearest(role):
    message = error("student_nr", "course", "position", **{role: "student_no"})
    assert message == (
        f"no column 'student_no' (`{role}=`). Did you mean 'student_nr'? Columns found: student_nr, course, position"
    )


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
    other = ", or say `order='none'` if rows are oldest first" if role == "order" else ""
    assert error(*found) == (
        f"cannot tell which column is the {role}. Name it with `{role}=`{other}. Columns found: {', '.join(found)}"
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


@pytest.mark.parametrize("name", ["rating", "Price", "event_type"])
def test_a_third_column_that_is_no_order(name):
    frame = pl.DataFrame({"user": ["a", "a"], "item": ["y", "x"], name: [2, 1]})
    with pytest.raises(DataError, match=r"which column is the order\. Name it with `order=`, or say `order='none'`"):
        log_from_frame(frame)
    log = log_from_frame(frame, DataSettings(order="none"))
    assert (log.items.to_list(), log.plan.names("order"), log.plan.ignored) == (["y", "x"], (), (name,))
    assert log_from_frame(frame, DataSettings(order=name)).items.to_list() == ["x", "y"]


def test_an_order_that_is_not_wanted():
    frame = pl.DataFrame({"user": ["a", "a"], "item": ["y", "x"], "time": [2, 1]})
    log = log_from_frame(frame, DataSettings(order="none"))
    assert (log.items.to_list(), log.plan.ignored) == (["y", "x"], ("time",))
    assert log_from_frame(frame, log.plan).items.to_list() == ["y", "x"]
    named = frame.rename({"time": "none"})
    assert log_from_frame(named, DataSettings(order="none")).items.to_list() == ["x", "y"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            [1_700_000_000, 1_700_000_000_001],
            "row 1: order column 'time': 1700000000001 is a time in milliseconds, but",
        ),
        ([1_700_000_000_000, None, 1_700_000_000], "row 2: order column 'time': 1700000000 is a time in seconds, but"),
        ([1.7e9, 1.7e18], "row 1: order column 'time': 1.7e+18 is a time in nanoseconds, but other rows have seconds"),
    ],
)
def test_times_in_two_units(values, message):
    frame = pl.DataFrame({"user": ["a"] * len(values), "item": ["x"] * len(values), "time": values})
    with pytest.raises(DataError, match=re.escape(message)):
        log_from_frame(frame)
    assert len(log_from_frame(frame, DataSettings(order_kind="position")).items) == frame["time"].count()
    reader = OrderReader()
    for block in (values[:1], values[1:]):
        reader.read(pl.Series("time", block), MEMORY)
    with pytest.raises(DataError, match="is a time in"):
        reader.resolve("auto")


def test_numbers_that_are_no_times_do_not_mix_with_times():
    relative = [0, 5_000_000_000, 200_000_000_000, 1_700_000_000]  # microseconds since the start
    for values in ([1, 2, 1_700_000_000], [5, 99_999_999], [0.5, 1.5], relative, [-5, 1_700_000_000_000]):
        frame = pl.DataFrame({"user": ["a"] * len(values), "item": ["x"] * len(values), "time": values})
        assert len(log_from_frame(frame).items) == len(values)
