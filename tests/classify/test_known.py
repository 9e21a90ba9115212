"""A text without a known n-gram or word gets an answer that says so, the same on every surface."""

import json
import logging

import numpy as np
import pandas as pd
import polars as pl
import pytest

from command_cases import done
from hyperfocal import MultiLabelClassifier
from hyperfocal.errors import ConfigError
from text_cases import FAST, corpus

TEXTS, LABELS = corpus()
ASKED = ["sport0 and music1", "xyzzy plugh", "", None, "the old"]
KNOWN = [True, False, False, False, True]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("known") / "run"
    MultiLabelClassifier(settings=FAST).fit(TEXTS, LABELS, out=path)
    return path


@pytest.fixture(scope="module")
def classifier(run):
    return MultiLabelClassifier.load(run)


def warned(caplog):
    return [row.getMessage() for row in caplog.records if row.name == "hyperfocal" and row.levelno == logging.WARNING]


class TestPython:
    def test_a_column_of_the_frame(self, classifier):
        frame = classifier.predict_documents(pl.DataFrame({"text": ASKED}))
        assert frame.columns == ["id", "labels", "scores", "known"]
        assert frame["known"].dtype == pl.Boolean
        assert frame["known"].to_list() == KNOWN
        assert all(len(row) for row in frame["scores"])

    def test_a_column_of_a_pandas_frame(self, classifier):
        frame = classifier.predict_documents(pd.DataFrame({"text": ASKED}))
        assert isinstance(frame, pd.DataFrame)
        assert frame["known"].tolist() == KNOWN

    @pytest.mark.parametrize("ask", ["predict", "predict_proba", "decision_function"])
    def test_one_warning_with_the_count(self, classifier, caplog, ask):
        getattr(classifier, ask)(ASKED)
        (message,) = warned(caplog)
        assert message.startswith("3 of 5 texts have no known n-gram or word; their labels are unreliable.")

    def test_no_warning_if_all_are_known(self, classifier, caplog):
        classifier.predict(TEXTS)
        assert warned(caplog) == []

    def test_unknown_texts_get_the_scores_of_an_empty_one(self, classifier):
        scores = classifier.decision_function(ASKED)
        np.testing.assert_array_equal(scores[1], scores[2])

    def test_a_column_of_the_user_with_that_name_is_refused(self):
        frame = pl.DataFrame({"known": range(len(TEXTS)), "text": TEXTS, "labels": LABELS})
        classifier = MultiLabelClassifier(settings=FAST | {"data.id": "known"}).fit(frame)
        with pytest.raises(ConfigError, match="column known: predictions have such a column too"):
            classifier.predict_documents(frame)


class TestCommand:
    @pytest.mark.parametrize("end", [".jsonl", ".csv", ".tsv", ".parquet", ".jsonl.gz"])
    @pytest.mark.parametrize("block", [(), ("--block", 2)])
    def test_the_column_and_the_count(self, run, tmp_path, end, block):
        pl.DataFrame({"id": range(5), "text": ASKED}).write_ndjson(tmp_path / "docs.jsonl")
        out = tmp_path / f"out{end}"
        said = done("classify", "predict", run, tmp_path / "docs.jsonl", "--out", out, *block)
        assert "3 texts without an n-gram or word that RUN knows; the labels are unreliable." in " ".join(said.split())
        if end == ".parquet":
            frame = pl.read_parquet(out)
        elif "jsonl" in end:
            frame = pl.read_ndjson(out)
        else:
            frame = pl.read_csv(out, separator="\t" if end == ".tsv" else ",")
        assert frame["known"].to_list() == KNOWN

    def test_no_count_if_all_are_known(self, run, tmp_path):
        (tmp_path / "docs.jsonl").write_text(json.dumps({"text": "sport0"}))
        said = done("classify", "predict", run, tmp_path / "docs.jsonl", "--out", tmp_path / "out.jsonl")
        assert "RUN knows" not in said
