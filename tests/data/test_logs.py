import datetime as dt
from itertools import pairwise

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperfocal.config.recommend import DataSettings
from hyperfocal.data.log_columns import POSITION_LIMIT
from hyperfocal.data.logs import Log, as_log, log_from_frame
from hyperfocal.errors import DataError

quick = settings(deadline=None, max_examples=60)
names = st.sampled_from(["b", "a", "010", "10", "é e"])
TIME = DataSettings(order_kind="time")


def as_lists(log: Log) -> dict[str, list[str]]:
    """Return what each user did."""
    ends = log.offsets.tolist()
    assert len(ends) == len(log) + 1
    return {user: log.items[start:end].to_list() for user, (start, end) in zip(log.users, pairwise(ends), strict=True)}


def error(call, *arguments) -> str:
    with pytest.raises(DataError) as caught:
        call(*arguments)
    return str(caught.value)


# Against plain Python


@quick
@given(st.lists(st.tuples(names, names, st.integers(0, 4)), min_size=1, max_size=20))
def test_users_as_they_appear_and_events_in_order_of_time(rows):
    log = log_from_frame(pl.DataFrame(rows, schema=["user", "item", "time"], orient="row"), TIME)
    users: dict[str, list[tuple[int, str]]] = {}
    for user, item, time in rows:
        users.setdefault(user, []).append((time, item))
    for events in users.values():
        events.sort(key=lambda event: event[0])  # stable: ties keep the order of the file
    assert list(as_lists(log).items()) == [(user, [item for _, item in events]) for user, events in users.items()]
    assert log.ties == sum(a == b for events in users.values() for (a, _), (b, _) in pairwise(events))


@quick
@given(st.lists(st.tuples(names, names), min_size=1, max_size=20))
def test_without_an_order_the_file_has_it(rows):
    log = log_from_frame(pl.DataFrame(rows, schema=["user", "item"], orient="row"))
    users: dict[str, list[str]] = {}
    for user, item in rows:
        users.setdefault(user, []).append(item)
    assert list(as_lists(log).items()) == list(users.items())
    assert log.ties == 0


@quick
@given(st.lists(st.lists(names, max_size=4), max_size=6), st.data())
def test_select(lists, data):
    log = Log.from_lists(lists)
    assert as_lists(log) == {str(user): items for user, items in enumerate(lists)}
    chosen = data.draw(st.lists(st.sampled_from(range(len(lists))), max_size=8) if lists else st.just([]))
    part = log.select(np.array(chosen, dtype=np.int64))
    assert part.users.to_list() == [str(user) for user in chosen]
    assert part.lengths.tolist() == [len(lists[user]) for user in chosen]
    assert part.items.to_list() == [item for user in chosen for item in lists[user]]


def test_select_keeps_names_and_form():
    log = log_from_frame(pl.DataFrame({"student": ["a", "b"], "course": ["x", "y"]}))
    part = log.select(np.array([1]))
    assert (part.plan.name("user"), part.plan.name("item"), part.plan.form) == ("student", "course", "long")


# Formats

LONG = 'student,course,position\nb,"x, y",2\n007,x,1\nb,z,1\n'
LONG_JSON = '{"student": "b", "course": "x, y", "position": 2}\n{"student": "007", "course": "x", "position": 1}\n'
LONG_JSON += '{"student": "b", "course": "z", "position": 1}\n'


@pytest.mark.parametrize("name", ["log.csv", "log.csv.gz", "log.jsonl", "log.jsonl.gz"])
def test_long_form(put, name):
    log = as_log(put(name, LONG_JSON if "json" in name else LONG))
    assert as_lists(log) == {"b": ["z", "x, y"], "007": ["x"]}
    assert (log.plan.name("user"), log.plan.name("item"), log.plan.form, log.ties) == ("student", "course", "long", 0)


@pytest.mark.parametrize("name", ["log.tsv", "log.tsv.gz"])
def test_long_form_with_tabs(put, name):
    log = as_log(put(name, 'user\titem\tposition\nb\tx, y\t2\nb\t"z"\t1\n'))
    assert as_lists(log) == {"b": ["z", "x, y"]}


def test_long_form_in_parquet(tmp_path):
    pl.DataFrame({"user": ["b", "007", "b"], "item": ["x", "y", "z"], "n": [2, 1, 1]}).write_parquet(
        tmp_path / "a.parquet"
    )
    assert as_lists(as_log(tmp_path / "a.parquet")) == {"b": ["z", "x"], "007": ["y"]}


@pytest.mark.parametrize("name", ["log.txt", "log.txt.gz"])
def test_lines(put, name):
    log = as_log(put(name, "b x y x\n007 z\nb w\n"))
    assert as_lists(log) == {"b": ["x", "y", "x", "w"], "007": ["z"]}
    assert (log.plan.name("user"), log.plan.name("item"), log.plan.form) == ("user", "item", "lines")


@pytest.mark.parametrize("name", ["log.csv", "log.csv.gz"])
@pytest.mark.parametrize(
    "content",
    [
        "user_sequence,user_id,challenge_sequence,challenge\n9_10,9,10,CI5\n9_2,9,2,CI07\n4_1,4,1,CI5\n",
        "user_sequence,challenge\n9_10,CI5\n9_2,CI07\n4_1,CI5\n",
    ],
)
def test_challenge_format(put, name, content):
    log = as_log(put(name, content))
    assert as_lists(log) == {"9": ["CI07", "CI5"], "4": ["CI5"]}  # 2 before 10: numbers, not text
    assert (log.plan.name("user"), log.plan.name("item"), log.plan.form) == ("user_id", "challenge", "challenge")


def test_a_user_with_an_underscore_in_the_challenge_format(put):
    assert as_lists(as_log(put("log.csv", "user_sequence,challenge\na_1_2,x\na_1_1,y\n"))) == {"a_1": ["y", "x"]}


def test_named_columns_read_the_challenge_format_as_any_other(put):
    path = put("log.csv", "user_sequence,user_id,challenge_sequence,challenge\n9_1,9,2,x\n9_2,9,1,y\n")
    log = as_log(path, DataSettings(user="user_id", item="challenge", order="challenge_sequence"))
    assert (as_lists(log), log.plan.form) == ({"9": ["y", "x"]}, "long")


# Ids


@pytest.mark.parametrize("name", ["log.jsonl", "log.jsonl.gz"])
def test_numbers_as_ids_in_json(put, name):
    log = as_log(put(name, '{"user": 7, "item": 12345678901234567890}\n{"user": 7, "item": 3}\n'))
    assert as_lists(log) == {"7": ["12345678901234567890", "3"]}


def test_numbers_and_text_as_ids_in_json(put):
    log = as_log(put("log.jsonl", '{"user": 7, "item": 1}\n{"user": "07", "item": "x"}\n{"user": 7, "item": 2.5}\n'))
    assert as_lists(log) == {"7": ["1", "2.5"], "07": ["x"]}


@pytest.mark.parametrize(
    ("items", "expected"),
    [
        (pl.Series([7, 12], dtype=pl.Int32), ["7", "12"]),
        (pl.Series([7, 2**64 - 1], dtype=pl.UInt64), ["7", str(2**64 - 1)]),
        (pl.Series([7.0, 12.5]), ["7", "12.5"]),  # pandas makes floats of integers with a gap
        (pl.Series([1e15, -3.0], dtype=pl.Float64), ["1000000000000000", "-3"]),
        (pl.Series(["x", "07"], dtype=pl.Categorical), ["x", "07"]),
        (pl.Series(["x", "07"], dtype=pl.Enum(["07", "x"])), ["x", "07"]),
        (pl.Series([True, False]), ["true", "false"]),
        (pl.Series([dt.date(2024, 5, 31), dt.date(2024, 6, 1)]), ["2024-05-31", "2024-06-01"]),
    ],
)
def test_ids_of_any_plain_type(tmp_path, items, expected):
    frame = pl.DataFrame({"user": items, "item": items})
    frame.write_parquet(tmp_path / "a.parquet")
    for log in (log_from_frame(frame), as_log(tmp_path / "a.parquet")):
        assert (log.users.to_list(), log.items.to_list()) == (expected, expected)
        assert (log.users.dtype, log.items.dtype) == (pl.String, pl.String)


@pytest.mark.parametrize("items", [["x", None], [7, None], [7.0, float("nan")], ["x", ""]])
def test_a_row_without_an_id_is_left_out_and_counted(items, caplog):
    log = log_from_frame(pl.DataFrame({"user": ["a", "b"], "item": items}))
    assert (log.users.to_list(), len(log.items), log.incomplete) == (["a"], 1, 1)
    assert [(column.name, column.missing) for column in log.plan.columns] == [("user", 0), ("item", 1)]
    assert [record.getMessage() for record in caplog.records] == [
        "frame: 1 of 2 rows have no user, item or order; left out"
    ]
    log = log_from_frame(pl.DataFrame({"user": items, "item": ["a", "b"]}))
    assert (log.users.to_list(), log.items.to_list()) == ([str(items[0]).removesuffix(".0")], ["a"])


def test_not_one_complete_row():
    frame = pl.DataFrame({"user": ["a", None], "item": [None, "x"]})
    assert error(log_from_frame, frame) == ("frame: none of 2 rows has a user, an item and an order. Check the columns")


@pytest.mark.parametrize("items", [[["x"], ["y"]], [{"x": 1}, {"x": 2}], [b"x", b"\xff"], [object(), object()]])
def test_an_id_that_is_no_id(items):
    message = error(log_from_frame, pl.DataFrame({"user": ["a", "b"], "item": items}))
    assert "frame: column 'item' holds " in message
    assert message.endswith("Allowed: text and numbers")


# Orders


@pytest.mark.parametrize(
    ("later", "earlier"),
    [
        ("10", "9"),  # numbers, not text
        ("010", "9"),
        (" 2", "1 "),
        ("-1", "-2"),
        ("1700000001", "1700000000"),
        ("2.5", "-1e3"),
        ("2024-05-31T12:00:00", "2024-05-31T11:59:59"),
        ("2024-05-31 12:00", "2024-05-31 11:59"),
        ("2024-05-31", "2023-12-01"),
        ("2024-05-31T00:00:01", "2024-05-31"),
        ("2024-05-31T12:00:00.5", "2024-05-31T12:00:00.25"),
        ("2024-05-31T12:00:00.123456789", "2024-05-31T12:00:00.123456788"),
        ("2024-05-31T11:30:00Z", "2024-05-31T12:00:00+02:00"),
        ("1400-01-02", "1400-01-01"),
    ],
)
def test_orders_as_text(put, later, earlier):
    log = as_log(put("log.csv", f"user,item,time\nu,second,{later}\nu,first,{earlier}\n"))
    assert (as_lists(log), log.ties) == ({"u": ["first", "second"]}, 0)


@pytest.mark.parametrize(
    "order",
    [
        pl.Series([2, 1], dtype=pl.UInt8),
        pl.Series([2**63 + 1, 2**63], dtype=pl.UInt64),
        pl.Series([0.5, -0.5]),
        pl.Series(["2.50", "1.50"]).cast(pl.Decimal(10, 2)),
        pl.Series(["10", "9"], dtype=pl.Categorical),
        pl.Series([dt.date(2024, 2, 1), dt.date(2024, 1, 31)]),
        pl.Series([dt.datetime(2024, 1, 1, 1), dt.datetime(2024, 1, 1)]),
        pl.Series([dt.datetime(2024, 1, 1, 1), dt.datetime(2024, 1, 1)]).dt.replace_time_zone("Europe/Berlin"),
        pl.Series([dt.time(2), dt.time(1)]),
        pl.Series([dt.timedelta(2), dt.timedelta(1)]),
    ],
    ids=lambda series: str(series.dtype),
)
def test_orders_of_any_sortable_type(tmp_path, order):
    frame = pl.DataFrame({"user": ["u", "u"], "item": ["second", "first"], "time": order})
    frame.write_parquet(tmp_path / "a.parquet")
    for log in (log_from_frame(frame), as_log(tmp_path / "a.parquet")):
        assert as_lists(log) == {"u": ["first", "second"]}


@pytest.mark.parametrize("value", ["foo", "31/12/2024", "12:00:00", "nan", "inf", "1e999", "2024-02-30", "1,5"])
def test_an_order_that_is_neither_number_nor_time(put, value):
    path = put("log.csv", f'user,item,time\na,x,1\n\na,y,"{value}"\n')
    message = error(as_log, path)
    assert message.startswith(f"{path} line 4: order column 'time': {value!r} is neither a number nor a time. Allowed")


def test_the_odd_one_out_is_blamed(put):
    path = put("log.csv", "user,item,time\na,x,2024-01-01\na,y,5\na,z,2024-01-03\n")
    assert error(as_log, path).startswith(f"{path} line 3: order column 'time': '5' is neither")
    path = put("log.csv", "user,item,time\na,x,2024-01-01T00:00:00Z\na,y,2024-01-02T00:00:00\n")
    message = error(as_log, path)
    assert message.startswith(f"{path} line 3: ")
    assert message.endswith("all with or all without a time zone")


@pytest.mark.parametrize("times", [("31/12/2024", "01/12/2024"), ("12:00:00", "11:00:00"), ("31.12.2024", "1.12.2024")])
def test_times_that_are_not_iso(put, times):
    """Whether the day or the month goes first in 01/12/2024 cannot be told."""
    path = put("log.csv", "user,item,time\n" + "".join(f"a,x,{time}\n" for time in times))
    assert error(as_log, path).startswith(f"{path} line 2: order column 'time': {times[0]!r} is neither a number nor")


def test_an_order_that_is_missing(put):
    path = put("log.csv", "user,item,time\na,x,1\na,y,\n")
    frame = pl.DataFrame({"user": ["a", "a"], "item": ["x", "y"], "time": [1, None]})
    for log in (as_log(path), log_from_frame(frame)):
        assert (log.items.to_list(), log.incomplete) == (["x"], 1)
        assert (log.plan.columns[2].missing, log.plan.columns[2].type) == (1, "position")


@pytest.mark.parametrize("order", [[True, False], [None, None], [[1], [2]]])
def test_an_order_of_a_wrong_type(order):
    message = error(log_from_frame, pl.DataFrame({"user": ["a", "a"], "item": ["x", "y"], "time": order}))
    assert message.startswith("frame: order column 'time' holds ")
    assert message.endswith("not numbers or times. Name another column with `order=`")


# Ties


@pytest.mark.parametrize("time", ["1700000000", str(POSITION_LIMIT), "2.0", "2024-01-01", "2024-01-01T00:00:00Z"])
def test_equal_times_keep_the_order_of_the_file(put, time):
    log = as_log(put("log.csv", f"user,item,time\na,z,{time}\na,x,{time}\nb,q,{time}\na,y,{time}\n"))
    assert as_lists(log) == {"a": ["z", "x", "y"], "b": ["q"]}
    assert log.ties == 2  # x and y of a


def test_many_equal_times_keep_the_order_of_the_file():
    rows = [(f"u{number % 7}", str(number), number % 3) for number in range(30_000)]
    log = log_from_frame(pl.DataFrame(rows, schema=["user", "item", "time"], orient="row"), TIME)
    stable = sorted(rows, key=lambda row: (int(row[0][1:]), row[2]))
    assert log.items.to_list() == [item for _, item, _ in stable]
    assert log.ties == 30_000 - 7 * 3


@pytest.mark.parametrize("position", ["1", "0", str(POSITION_LIMIT - 1), "-5"])
def test_a_position_twice(put, position):
    path = put("log.csv", f"user,item,n\nb,x,{position}\na,x,{position}\na,y,{position}\n")
    assert error(as_log, path).startswith(
        f"{path}: user 'a' has n {position} twice, but a position belongs to one event."
    )


@pytest.mark.parametrize(
    "columns", ["user_sequence,challenge\n4_11,x\n4_11,y\n", "user_id,challenge_sequence,challenge\n4,11,x\n4,11,y\n"]
)
def test_a_position_twice_in_the_challenge_format(put, columns):
    path = put("log.csv", columns)
    message = error(as_log, path)
    assert message.startswith(f"{path}: user '4' has ")
    assert " 11 twice" in message


def test_the_kind_of_order_can_be_said(put):
    path = put("log.csv", "user,item,n\na,x,1\na,y,1\n")
    assert as_log(path, TIME).ties == 1
    path = put("log.csv", f"user,item,n\na,x,{POSITION_LIMIT}\na,y,{POSITION_LIMIT}\n")
    assert "twice" in error(as_log, path, DataSettings(order_kind="position"))


# Rows that are wrong


@pytest.mark.parametrize("name", ["log.csv", "log.csv.gz"])
@pytest.mark.parametrize("row", ["c", "c,y", '"c\nd",y', ",y,3"])
def test_a_row_with_too_few_fields_is_incomplete(put, name, row, caplog):
    path = put(name, f'user,item,position\n"a\nb",x,1\n\n{row}\ne,z,2\n')
    log = as_log(path)
    assert (log.users.to_list(), log.incomplete) == (["a\nb", "e"], 1)
    assert f"{path}: 1 of 3 rows have no user, item or order; left out" in caplog.text


@pytest.mark.parametrize("name", ["log.csv", "log.csv.gz"])
def test_a_row_with_too_many_fields(put, name):
    path = put(name, 'user,item,position\n"a\nb",x,1\n\nc,y,2,\n')
    assert "line 5 has 4 fields, the header 3" in error(as_log, path)


def test_an_item_that_is_missing(put):
    path = put("log.csv", "user,item,position\na,x,1\na,,2\n")
    assert (as_log(path).items.to_list(), as_log(path).incomplete) == (["x"], 1)
    path = put("log.jsonl", '{"user": "a", "item": "x"}\n\n{"user": "a"}\n')
    assert (as_log(path).items.to_list(), as_log(path).incomplete) == (["x"], 1)


@pytest.mark.parametrize("content", ["user,item,position\n", "user,item,position", "user,item,position\n\n,,\n"])
def test_a_header_without_rows(put, content):
    path = put("log.csv", content)
    assert error(as_log, path) == f"{path}: has no rows. Give a file with one row per event"


def test_lines_without_words(put):
    path = put("log.txt", "\n  \n")
    assert error(as_log, path) == f"{path}: has no rows. Give a file with one row per event"


@pytest.mark.parametrize(
    "header", ["user,item,item,position", "user,item,position,user", "item,user,position,position"]
)
def test_a_header_with_a_name_twice(put, header):
    path = put("log.csv", f"{header}\na,b,1,2\n")
    name = next(name for name in ("user", "item", "position") if header.split(",").count(name) == 2)
    assert error(as_log, path) == f"{path}: the header has column '{name}' twice. Rename one of them"


def test_a_name_twice_that_nobody_reads(put):
    assert as_lists(as_log(put("log.csv", "user,item,position,x,x\na,b,1,2,3\n"))) == {"a": ["b"]}


def test_a_challenge_header_with_a_name_twice(put):
    path = put("log.csv", "user_id,challenge_sequence,challenge,challenge\n1,1,x,y\n")
    assert error(as_log, path) == f"{path}: the header has column 'challenge' twice. Rename one of them"


def test_a_missing_column(put):
    path = put("log.csv", "student,course,position\na,b,1\n")
    message = error(as_log, path, DataSettings(user="studnet"))
    expected = (
        f"{path}: no column 'studnet' (`user=`). Did you mean 'student'? Columns found: student, course, position"
    )
    assert message == expected


@pytest.mark.parametrize("value", ["4576", "_11", "4576_x", ""])
def test_a_user_sequence_that_is_none(put, value):
    path = put("log.csv", f"user_sequence,challenge\n4576_1,x\n{value},y\n")
    message = error(as_log, path)
    assert message.startswith(
        f"{path} line 3: user_sequence {value or None!r} is not <user>_<position>, such as 17_11."
    )


def test_a_user_sequence_that_is_a_number():
    message = error(log_from_frame, pl.DataFrame({"user_sequence": [17], "challenge": ["x"]}))
    assert message.startswith("frame row 0: user_sequence 17 is not <user>_<position>, such as 17_11.")
