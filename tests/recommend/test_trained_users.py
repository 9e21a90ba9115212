"""Scoring users that were trained on is not a test, and is called what it is."""

import json

import polars as pl
import pytest
from click.testing import CliRunner

from hyperfocal import Recommender
from hyperfocal.cli.main import main
from log_cases import TINY, log

LOG = log(short=False)
NEW = log(10, name="new", short=False)
FIRST = LOG["user"].unique(maintain_order=True)[:4].to_list()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("trained") / "run"
    Recommender(model="markov", settings=TINY).fit(LOG, valid=log(5, name="valid"), out=path)
    return path


def trained(run, log, truth=None):
    return Recommender.load(run).evaluate(log, truth)["data"]["training_users"]


def cut(frame, count=2):
    """Return the events before each user's last ones, and these."""
    is_past = pl.int_range(pl.len()).over("user") < pl.len().over("user") - count
    return frame.filter(is_past), frame.filter(~is_past)


class TestCount:
    def test_all_some_and_none(self, run):
        assert trained(run, LOG) == 40
        assert trained(run, NEW) == 0
        assert trained(run, pl.concat([NEW, LOG.filter(pl.col("user").is_in(FIRST))])) == 4

    def test_a_file_of_the_true_items_counts_too(self, run):
        assert trained(run, *cut(LOG)) == 40

    def test_items_after_the_training_log_are_a_test(self, run):
        """The users are the same; what they do next is new, whether it is in one file or in two."""
        following = LOG.unique("user", maintain_order=True).with_columns(item=pl.lit("i3"))
        assert trained(run, LOG, following) == 0

    def test_of_a_user_with_some_new_items_the_others_were_trained_on(self, run):
        more = pl.concat([LOG, LOG.unique("user", maintain_order=True).with_columns(item=pl.lit("i3"))])
        assert trained(run, more.sort("user", maintain_order=True)) == 40

    def test_users_of_an_update_were_trained_on(self, run):
        assert Recommender.load(run).update(NEW).evaluate(NEW)["data"]["training_users"] == 10

    def test_it_is_unknown_where_no_users_are_stored(self, run, tmp_path, monkeypatch):
        monkeypatch.setenv("HYPERFOCAL_CACHE", str(tmp_path / "cache"))
        LOG.write_csv(tmp_path / "log.csv")
        streamed = Recommender(model="markov", settings=TINY | {"data.stream": "on"}).fit(tmp_path / "log.csv")
        assert streamed.evaluate(LOG)["data"]["training_users"] is None

    def test_leave_one_out_tests_the_training_users(self):
        left = Recommender(model="markov", settings=TINY | {"data.protocol": "leave-one-out"}).fit(LOG)
        assert left.evaluate(LOG)["data"]["training_users"] == 0


class TestShown:
    def shown(self, run, frame, tmp_path, *options):
        frame.write_csv(tmp_path / "log.csv")
        return CliRunner().invoke(main, ["recommend", "evaluate", str(run), str(tmp_path / "log.csv"), *options]).output

    def test_all(self, run, tmp_path):
        shown = self.shown(run, LOG, tmp_path)
        assert shown.startswith("Training users, 40 users")
        assert "This is not a test: all users were in training" in shown

    def test_most(self, run, tmp_path):
        """As with the file of a fit that held some of its users out to validate."""
        shown = self.shown(run, pl.concat([NEW, LOG]), tmp_path)
        assert shown.startswith("Training and test users, 50 users")
        assert "40 of 50 users were in training" in shown

    def test_some(self, run, tmp_path):
        shown = self.shown(run, pl.concat([NEW, LOG.filter(pl.col("user").is_in(FIRST))]), tmp_path)
        assert shown.startswith("Test, 14 users")
        assert "4 of 14 users were in training" in shown

    def test_none(self, run, tmp_path):
        shown = self.shown(run, NEW, tmp_path)
        assert shown.startswith("Test, 10 users")
        assert "in training" not in shown

    def test_unknown(self, tmp_path, monkeypatch):
        monkeypatch.setenv("HYPERFOCAL_CACHE", str(tmp_path / "cache"))
        LOG.write_csv(tmp_path / "train.csv")
        options = TINY | {"data.stream": "on"}
        Recommender(model="markov", settings=options).fit(tmp_path / "train.csv", out=tmp_path / "run")
        assert self.shown(tmp_path / "run", LOG, tmp_path).startswith("Users, 40 users")

    def test_json(self, run, tmp_path):
        assert json.loads(self.shown(run, LOG, tmp_path, "--json"))["data"]["training_users"] == 40
