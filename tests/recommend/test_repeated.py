"""An update refuses events that the run has already, and nothing else."""

import json
import re
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from command_cases import done, invoke, names_below, refused
from hyperfocal.data.files import write_frame
from hyperfocal.data.log_checksum import log_checksum
from hyperfocal.data.logs import Log, as_log
from hyperfocal.data.vocabulary import Vocabulary, encode_log
from hyperfocal.errors import DataError
from hyperfocal.recommend.recommender import Recommender
from hyperfocal.recommend.repeated import returning

SCHEMA = ["user", "item", "time"]
SETTINGS = {"data.valid_fraction": 0.2, "train.threads": 1}


def events(users, *, start=0, length=6, seed=0, items=30):
    """Return a log of users with random items, at the hours from `start` on."""
    rng = np.random.default_rng([seed, start])
    rows = [(f"u{user}", f"i{rng.integers(items)}", 3_600 * (start + hour)) for user in users for hour in range(length)]
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")


def fitted(log, **more):
    return Recommender(model="markov", history=2, next_items=1, settings=SETTINGS | more).fit(log)


def spelled(histories):
    """Return a log of users whose items are letters."""
    offsets = np.cumsum([0, *map(len, histories.values())])
    return Log(pl.Series("user", [*histories]), pl.Series([*"".join(histories.values())]), offsets)


FIRST, SECOND = events(range(30)), events(range(40), start=6)
ALREADY = "the run has the events of this log already"


class TestSameLog:
    def test_the_log_of_the_fit(self):
        with pytest.raises(DataError, match=ALREADY):
            fitted(FIRST).update(FIRST)

    def test_an_update_twice(self):
        recommender = fitted(FIRST).update(SECOND)
        before = len(recommender.events_.items)
        with pytest.raises(DataError, match=ALREADY):
            recommender.update(SECOND)
        assert len(recommender.events_.items) == before
        recommender.update(SECOND, again=True)
        assert len(recommender.events_.items) > before
        assert len(recommender.fit_.logs) == 2
        recommender.update(events(range(40), start=12))

    def test_a_stored_run_knows_its_logs(self, tmp_path):
        fitted(FIRST).update(SECOND).save(tmp_path / "run")
        for log in (FIRST, SECOND):
            with pytest.raises(DataError, match=ALREADY):
                Recommender.load(tmp_path / "run").update(log)
        assert len(json.loads((tmp_path / "run" / "data.json").read_text())["logs"]) == 2

    @pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "csv.gz", "parquet"])
    def test_another_format_and_order_of_rows(self, suffix, tmp_path):

        write_frame(
            FIRST.sample(fraction=1, shuffle=True, seed=1).select("time", "user", "item"), tmp_path / f"log.{suffix}"
        )
        with pytest.raises(DataError, match=ALREADY):
            fitted(FIRST).update(tmp_path / f"log.{suffix}")

    def test_times_as_texts_and_as_times(self):
        times = FIRST.with_columns(pl.from_epoch("time"))
        texts = times.with_columns(pl.col("time").dt.to_string("iso"))
        assert log_checksum(as_log(times)) == log_checksum(as_log(texts))

    def test_one_event_more_or_another_time_is_another_log(self):
        whole = log_checksum(as_log(FIRST))
        assert log_checksum(as_log(FIRST.head(-1))) != whole
        assert log_checksum(as_log(FIRST.with_columns(pl.col("time") + 24 * 3_600))) != whole

    @settings(deadline=None, max_examples=200)
    @given(
        st.lists(
            st.tuples(st.sampled_from("abc"), st.sampled_from(["x", "y", "\0", "é"]), st.integers(0, 3)), min_size=1
        ),
        st.randoms(),
    )
    def test_equal_checksums_are_equal_events(self, rows, random):
        """Two logs have one checksum exactly if they have the same events as often."""
        rows = [(user, item, 10**9 + time) for user, item, time in rows]
        shuffled = [*rows]
        random.shuffle(shuffled)
        others = [*shuffled]
        user, item, time = others[0]
        others[0] = (user, item, time + 1)
        logs = [as_log(pl.DataFrame(each, schema=SCHEMA, orient="row")) for each in (rows, shuffled, others)]
        first, second, third = map(log_checksum, logs)
        assert first == second != third

    def test_lists_and_lines_without_an_order(self):
        lists = [["a", "b"], ["c"]]
        assert log_checksum(Log.from_lists(lists)) == log_checksum(Log.from_lists(lists))
        assert log_checksum(Log.from_lists(lists)) != log_checksum(Log.from_lists([["b", "a"], ["c"]]))
        assert log_checksum(Log.from_lists([["ab"], ["c"]])) != log_checksum(Log.from_lists([["a"], ["bc"]]))


class TestCumulativeLog:
    def test_an_export_of_everything_so_far(self):
        with pytest.raises(DataError, match=r"the log is cumulative: for (\d+) of \1 users it begins"):
            fitted(FIRST).update(pl.concat([FIRST, SECOND]))

    def test_a_run_of_an_earlier_version_has_only_this_rule(self, tmp_path):
        fitted(FIRST).save(tmp_path / "run")
        data = tmp_path / "run" / "data.json"
        data.write_text(
            json.dumps({key: value for key, value in json.loads(data.read_text()).items() if key != "logs"})
        )
        recommender = Recommender.load(tmp_path / "run")
        assert recommender.fit_.logs == ()
        with pytest.raises(DataError, match="the log is cumulative"):
            recommender.update(FIRST)
        recommender.update(FIRST, again=True)

    def test_returning_users_written_out(self):
        stored = {"a": "xyz", "b": "xxx", "c": "xy", "d": "xyz", "e": "xyz", "f": "zyx"}
        later = {"a": "xyzx", "b": "xxx", "c": "xy", "d": "xy", "e": "xzy", "g": "xyz", "f": "zyx"}
        log, new = map(spelled, (stored, later))
        vocabulary = Vocabulary.of(log.items, "text")
        ranker = replace(fitted(FIRST).fit_.ranker, vocabulary=vocabulary)
        fit = replace(fitted(FIRST).fit_, ranker=ranker, users=log.users, events=encode_log(log, vocabulary)[0])
        assert returning(fit, new).tolist() == [True, False, True]  # a, e and f: b has one item; c and d are short


DAYS = {"the same favorite every day": 5, "one event per user": 1, "two events per user": 2, "a few regulars": 6}


def week(shop, number):
    """Return a week of a shop whose customers come on the same days and buy the same again."""
    rows = []
    for user in range(4 if shop == "a few regulars" else 60):
        for day in range(DAYS[shop]):
            item = user % 7 if shop == "the same favorite every day" else (user + day) % 7
            rows.append((f"u{user}", f"i{item}", 10**9 + 86_400 * (7 * number + day)))
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")


@pytest.mark.parametrize("shop", DAYS)
def test_no_false_alarm_for_habits(shop):
    recommender = fitted(pl.concat([week(shop, 0), week(shop, 1)]))
    for number in (2, 3, 4):
        recommender.update(week(shop, number))


@pytest.mark.slow
def test_no_false_alarm_among_random_shops():
    """300 shops with loyal customers, of whom some repeat a whole week: no update is refused."""
    for seed in range(300):
        rng = np.random.default_rng(seed)
        habit = rng.random()  # chance that a customer repeats an item
        weeks = []
        usual = rng.integers(12, size=(40, 4))
        for number in range(3):
            bought = np.where(rng.random(usual.shape) < habit * 0.95, usual, rng.integers(12, size=usual.shape))
            rows = [
                (f"u{user}", f"i{item}", 10**9 + number * 10**6 + place)
                for user, items in enumerate(bought)
                for place, item in enumerate(items)
            ]
            weeks.append(pl.DataFrame(rows, schema=SCHEMA, orient="row"))
        recommender = fitted(weeks[0])
        for week in weeks[1:]:
            recommender.update(week)
    print("600 updates of random shops")


class TestCommand:
    def test_again(self, tmp_path):
        FIRST.write_csv(tmp_path / "log.csv")
        SECOND.write_csv(tmp_path / "new.csv")
        run = tmp_path / "run"
        done("recommend", "fit", tmp_path / "log.csv", "--out", run, "--model", "markov", "--history", 2, "--next", 1)
        for log in ("log.csv", "new.csv"):
            if log == "new.csv":
                done("recommend", "update", run, tmp_path / log)
            files = {name: (run / name).read_bytes() for name in names_below(run) if (run / name).is_file()}
            message = refused("recommend", "update", run, tmp_path / log)
            assert message.startswith("error: the run has the events of this log already, so that they would count tw")
            assert message.endswith(" Give new events, or count them again with --again")
            assert files == {name: (run / name).read_bytes() for name in names_below(run) if (run / name).is_file()}
        result = invoke("recommend", "update", run, tmp_path / "new.csv", "--again")
        assert result.exit_code == 0
        assert re.search("240 new events", result.output)
