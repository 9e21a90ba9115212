"""Logs split at a moment, against the events that a person would choose."""

from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest

from command_cases import done, refused
from hyperfocal import Recommender
from hyperfocal.data.logs import as_log
from hyperfocal.data.time_split import split_at
from hyperfocal.errors import ConfigError, DataError

START = datetime(2024, 5, 1)
ROWS = [  # user, item, day
    ("a", "x", 0), ("a", "y", 2), ("a", "z", 4), ("a", "w", 5), ("a", "x", 9),
    ("b", "x", 1), ("b", "y", 2),
    ("new", "z", 4), ("new", "y", 6),
]  # fmt: skip
FORMS = {
    "datetime": lambda day: START + timedelta(days=day),
    "date": lambda day: (START + timedelta(days=day)).date(),
    "zoned": lambda day: (START + timedelta(days=day)).replace(tzinfo=UTC),
    "text": lambda day: (START + timedelta(days=day)).isoformat(),
    "seconds": lambda day: int((START + timedelta(days=day)).replace(tzinfo=UTC).timestamp()),
    "milliseconds": lambda day: 1_000 * int((START + timedelta(days=day)).replace(tzinfo=UTC).timestamp()),
}


def log(form="datetime"):
    times = [FORMS[form](day) for _, _, day in ROWS]
    frame = pl.DataFrame({"user": [row[0] for row in ROWS], "item": [row[1] for row in ROWS], "time": times})
    return frame.sample(fraction=1, shuffle=True, seed=1)


def lists(part):
    return {
        user: part.items[int(start) : int(stop)].to_list()
        for user, start, stop in zip(part.users, part.offsets[:-1], part.offsets[1:], strict=True)
    }


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("until", ["2024-05-05", "2024-05-05T00:00:00"])
def test_events_before_train_and_the_first_ones_after_are_the_truth(form, until):
    split = split_at(as_log(log(form)), until, most=2)
    assert lists(split.train) == {"a": ["x", "y"], "b": ["x", "y"]}
    assert lists(split.truth) == {"a": ["z", "w"], "new": ["z", "y"]}
    assert lists(split_at(as_log(log(form)), until, most=9, days=2).truth) == {"a": ["z", "w"], "new": ["z"]}


def test_a_moment_in_the_unit_of_the_log():
    seconds = FORMS["seconds"](4)
    for form, moment in (("seconds", seconds), ("milliseconds", 1_000 * seconds)):
        assert lists(split_at(as_log(log(form)), str(moment), most=9).train) == {"a": ["x", "y"], "b": ["x", "y"]}


@pytest.mark.parametrize(
    ("until", "days", "error", "message"),
    [
        (
            "2024-05-01",
            0,
            DataError,
            "has no event before. Choose a moment within its times, 2024-05-01.* to 2024-05-10",
        ),
        ("2030-01-01", 0, DataError, "has no event from it on"),
        ("2024-05-08", 1, DataError, r"has no event in the 1 days from it on"),
        ("May", 0, ConfigError, r"not a time\. Expected ISO 8601, such as 2024-05-01"),
        ("", 0, ConfigError, r"needs a moment\. Give `until=`"),
    ],
)
def test_what_is_refused(until, days, error, message):
    with pytest.raises(error, match=message):
        split_at(as_log(log()), until, most=3, days=days)


def test_a_log_without_times():
    frame = log().with_columns(time=pl.lit(np.arange(len(ROWS))))
    with pytest.raises(ConfigError, match="needs the time of each event, and this log has positions"):
        split_at(as_log(frame), "2024-05-05", most=3)


SETTINGS = {"data.protocol": "time", "data.until": "2024-05-05", "data.next": 2, "train.metric": "map@2"}


class TestFit:
    def test_the_scores_are_those_of_the_events_after_the_moment(self):
        """Markov learns x to y alone, so that y follows x: a has both, and new is scored on an empty history."""
        fitted = Recommender(model="markov", settings=SETTINGS).fit(log())
        assert fitted.vocabulary_.names == ["x", "y"]
        counts = fitted.metrics_["data"]
        assert (counts["users"], counts["events"]) == (2, 4)
        valid = counts["valid"]
        assert (valid["users"], valid["users_without_history"], valid["unseen_true_items"]) == (2, 1, 3)
        assert fitted.metrics_["scores"]["markov"]["recall@2"]["mean"] == pytest.approx((0 / 2 + 1 / 2) / 2)

    def test_the_command_and_the_report(self, tmp_path):
        log().write_csv(tmp_path / "log.csv")
        asked = (
            "recommend",
            "fit",
            tmp_path / "log.csv",
            "--out",
            tmp_path / "run",
            "--model",
            "markov",
            "--next",
            2,
            "--set",
            "train.metric=map@2",
        )
        said = done(*asked, "--protocol", "time", "--until", "2024-05-05", "--horizon", 7)
        assert "Validation, 2 users" in said
        assert "on what 2 users did from 2024-05-05 on" in (tmp_path / "run" / "report.html").read_text()
        assert "--until=" not in refused(*asked, "--overwrite", "--protocol", "time")
        said = refused(*asked, "--overwrite", "--until", "2024-05-05")
        assert "data.until and data.horizon are for data.protocol = 'time', and it is 'users'" in said
        said = refused(
            *asked, "--overwrite", "--protocol", "time", "--until", "2024-05-05", "--valid", tmp_path / "log.csv"
        )
        assert "Leave --valid out" in said
