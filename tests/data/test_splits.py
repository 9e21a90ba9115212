import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperfocal.data.logs import Log
from hyperfocal.data.splits import check_leak, leave_last_out, split_users
from hyperfocal.errors import DataError, LeakError

quick = settings(deadline=None, max_examples=60)


def rows(log: Log) -> list[tuple[str, list[str]]]:
    return [
        (user, log.items[start : start + length].to_list())
        for user, start, length in zip(log.users, log.offsets, log.lengths, strict=False)
    ]


@quick
@given(st.integers(2, 40), st.floats(0.01, 0.99), st.integers(0, 5), st.data())
def test_every_user_stands_in_one_part_with_all_events(users, fraction, seed, data):
    log = Log.from_lists([[f"{user}.{event}" for event in range(user % 3)] for user in range(users)])
    eligible = np.array(data.draw(st.lists(st.booleans(), min_size=users, max_size=users).filter(lambda f: sum(f) > 1)))
    train, valid = split_users(log, fraction=fraction, seed=seed, eligible=eligible)
    merged = sorted(rows(train) + rows(valid), key=lambda row: int(row[0]))
    assert merged == rows(log)
    assert all(eligible[int(user)] for user in valid.users)
    pool = int(eligible.sum())
    assert len(valid) == min(max(round(pool * fraction), 1), pool - 1)
    assert set(train.users) & {str(user) for user in np.flatnonzero(eligible)}  # some that could be scored train
    for part in (train, valid):
        assert part.users.cast(int).is_sorted()


def test_the_seed_decides():
    log = Log.from_lists([["x"]] * 50)
    everyone = np.ones(50, dtype=np.bool_)
    parts = [split_users(log, fraction=0.3, seed=seed, eligible=everyone)[1].users.to_list() for seed in (0, 0, 1)]
    assert parts[0] == parts[1]
    assert parts[0] != parts[2]


def test_every_user_is_drawn_as_often():
    log = Log.from_lists([["x"]] * 10)
    everyone = np.ones(10, dtype=np.bool_)
    splits = [split_users(log, fraction=0.5, seed=seed, eligible=everyone) for seed in range(400)]
    drawn = [int(user) for _, valid in splits for user in valid.users]
    assert len(drawn) == 400 * 5
    assert np.abs(np.bincount(drawn) - 200).max() < 45  # 4.5 standard errors of 10


@pytest.mark.parametrize(("lists", "eligible"), [([["x"]], [True]), ([], []), ([["x"]] * 5, [True] + [False] * 4)])
def test_too_few_users(lists, eligible):
    eligible = np.array(eligible, dtype=np.bool_)
    count = eligible.sum()
    with pytest.raises(DataError, match=f"the log has {count} user long enough, but a split needs at least 2"):
        split_users(Log.from_lists(lists), fraction=0.5, seed=0, eligible=eligible)


def test_a_user_in_two_parts_is_a_leak():
    train, held_out = Log.from_lists([["x"]] * 3), Log.from_lists([["x"]] * 5)
    check_leak(train.users, held_out.select(np.array([3, 4])).users, units="users", name="valid.csv")
    with pytest.raises(LeakError) as caught:
        check_leak(train.users, held_out.select(np.array([4, 1, 0])).users, units="users", name="valid.csv")
    assert str(caught.value) == (
        "valid.csv: 2 of its 3 users are in training too, first '1'. Remove these users from one of the files"
    )


class TestLeaveLastOut:
    def test_the_last_two_items_of_long_users_do_not_teach(self):
        log = Log.from_lists([["a", "b", "c", "d"], ["a", "b"], ["x", "y", "z"], []])
        train, valid = leave_last_out(log)
        assert rows(train) == [("0", ["a", "b"]), ("1", ["a", "b"]), ("2", ["x"]), ("3", [])]
        assert rows(valid) == [("0", ["a", "b", "c"]), ("2", ["x", "y"])]

    def test_nobody_is_long_enough(self):
        with pytest.raises(DataError, match="no user has 3 items or more"):
            leave_last_out(Log.from_lists([["a", "b"]] * 5))
