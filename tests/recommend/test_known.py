"""A history without a known item gets an answer that says so, the same on every surface."""

import json
import logging
from unittest import mock

import pandas as pd
import polars as pl
import pytest

from command_cases import done, refused
from hyperfocal import Recommender
from hyperfocal.cli.part_files import PartFiles
from hyperfocal.data.logs import Log
from hyperfocal.errors import ConfigError

ROWS = [[f"i{(start + step) % 9}" for step in range(6)] for start in range(30)]
ASKED = pl.DataFrame({"user": ["u", "u", "v", "v", "w"], "item": ["i1", "new", "new", "other", "i2"]})


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("known") / "run"
    Recommender(model="markov", history=5, next_items=2).fit(Log.from_lists(ROWS)).save(path)
    return path


@pytest.fixture(scope="module")
def recommender(run):
    return Recommender.load(run)


def known_of(frame):
    return dict(frame.select("user", "known").unique().iter_rows())


class TestPython:
    def test_a_column_of_every_row(self, recommender):
        predictions = recommender.predict(ASKED)
        assert predictions.frame.columns == ["user", "item", "rank", "score", "known"]
        assert predictions.frame["known"].to_list() == [True, True, False, False, True, True]
        assert known_of(predictions.frame) == {"u": True, "v": False, "w": True}
        assert (predictions.unknown_users, predictions.unknown_events) == (1, 3)

    def test_a_column_of_a_pandas_frame(self, recommender):
        frame = recommender.predict(pd.DataFrame({"user": [1, 1, 2], "item": ["i1", "new", "new"]})).frame
        assert frame[["user", "known"]].drop_duplicates().values.tolist() == [[1, True], [2, False]]

    def test_integer_ids_are_known(self):
        """10, 10.0 and "10" are one id, and 11 is none."""
        fitted = Recommender(model="markov", history=3, next_items=1).fit(Log.from_lists([["10", "20", "30"]] * 8))
        frame = fitted.predict(pl.DataFrame({"user": ["a", "b"], "item": [10.0, 11.0]})).frame
        assert known_of(frame) == {"a": True, "b": False}

    def test_one_warning_with_the_count(self, recommender, caplog):
        lists = recommender.recommend([["i1"], ["new"], [], ["new", "i2"]])
        (record,) = [row for row in caplog.records if row.name == "hyperfocal"]
        assert record.levelno == logging.WARNING
        assert record.getMessage().startswith("2 of 4 histories have no item that the run knows")
        assert lists[1] == lists[2]

    def test_no_warning_if_all_are_known(self, recommender, caplog):
        recommender.recommend([["i1"], ["new", "i2"]])
        assert [row for row in caplog.records if row.name == "hyperfocal"] == []

    def test_new_items_of_a_table_are_known(self):
        items = pl.DataFrame({"item": [f"i{n}" for n in range(9)], "kind": ["a", "b", "c"] * 3})
        settings = {"train.epochs": 1, "model.embedding_width": 8, "model.layers": 1}
        fitted = Recommender(model="gru", history=4, next_items=1, settings=settings).fit(
            Log.from_lists(ROWS), items=items
        )
        wider = fitted.with_new_items(pl.DataFrame({"item": ["new"], "kind": ["a"]}))
        assert [known_of(each.predict(ASKED).frame)["v"] for each in (fitted, wider)] == [False, True]

    @pytest.mark.parametrize("column", ["user", "item"])
    def test_a_column_of_the_user_with_that_name_is_refused(self, column):
        log = pl.DataFrame({"user": ["a", "a", "a", "b", "b", "b"], "item": list("xyzxyz")}).rename({column: "known"})
        fitted = Recommender(model="popularity", next_items=1, settings={f"data.{column}": "known"}).fit(log)
        with pytest.raises(ConfigError, match="predictions have rank, score, known too"):
            fitted.predict(log)


class TestCommand:
    @pytest.mark.parametrize("end", [".csv", ".tsv", ".jsonl", ".parquet", ".csv.gz"])
    @pytest.mark.parametrize("block", [(), ("--block", 2)])
    def test_the_column_and_the_count(self, run, tmp_path, end, block):
        ASKED.write_csv(tmp_path / "log.csv")
        out = tmp_path / f"out{end}"
        said = done("recommend", "predict", run, tmp_path / "log.csv", "--out", out, *block)
        assert "1 user without an item that RUN knows: the same items as for an empty history." in " ".join(
            said.split()
        )
        if end == ".parquet":
            frame = pl.read_parquet(out)
        else:
            frame = (
                pl.read_ndjson(out) if end == ".jsonl" else pl.read_csv(out, separator="\t" if end == ".tsv" else ",")
            )
        assert known_of(frame) == {"u": True, "v": False, "w": True}

    def test_a_submission_keeps_its_two_columns_and_counts(self, run, tmp_path):
        (tmp_path / "log.csv").write_text("user_sequence,challenge\na_1,i1\na_2,i2\nb_1,new\n")
        said = done("recommend", "predict", run, tmp_path / "log.csv", "--out", tmp_path / "out.csv")
        assert pl.read_csv(tmp_path / "out.csv").columns == ["user_sequence", "challenge"]
        assert "1 user without an item that RUN knows" in said

    def test_parts_of_a_version_without_the_column_are_not_continued(self, run, tmp_path):
        ASKED.write_csv(tmp_path / "log.csv")
        out, parts = tmp_path / "out.csv", tmp_path / "out.csv.parts"
        asked = ("recommend", "predict", run, tmp_path / "log.csv", "--out", out, "--block", 2)
        with mock.patch.object(PartFiles, "join"):  # as if it was killed before the end
            done(*asked)
        plan = json.loads((parts / "plan.json").read_text())
        (parts / "plan.json").write_text(json.dumps({key: plan[key] for key in list(plan)[:-1]}))
        assert "holds parts made with another format of parts" in refused(*asked, "--resume")
