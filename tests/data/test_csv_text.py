import csv
from io import StringIO

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from command_cases import done, refused
from hyperfocal.classify.classifier import MultiLabelClassifier
from hyperfocal.classify.files import read_label_table
from hyperfocal.data.csv_text import safe_cells, unsafe_cell
from hyperfocal.recommend.recommender import Recommender
from hyperfocal.storage.run_folder import RunFolder

FORMULAS = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "\uff1d1+1", "'=1+1", "'", "=cmd|' /C calc'!A0"]
PLAIN = ["a=b", "1-1", "", " =1", "(=1)", '"=1"', "é", "a@b.c"]


def test_cells_written_out():
    frame = pl.DataFrame({"=name": [*FORMULAS, *PLAIN], "n": range(-5, len(FORMULAS) + len(PLAIN) - 5)})
    safe = safe_cells(frame)
    assert safe.columns == ["'=name", "n"]
    assert safe["'=name"].to_list() == [*(f"'{text}" for text in FORMULAS), *PLAIN]
    assert safe["n"].to_list() == frame["n"].to_list()


@settings(deadline=None, max_examples=1_000)
@given(st.lists(st.text(alphabet="'=+-@\t\r\na \uff1d\uff0b", max_size=5), min_size=1))
def test_no_cell_begins_a_formula_and_each_text_comes_back(texts):
    safe = safe_cells(pl.DataFrame({"text": texts}))["text"].to_list()
    assert not any(text[:1] in tuple("=+-@\t\r\n\uff1d\uff0b\uff0d\uff20") and text for text in safe)
    assert [unsafe_cell(text) for text in safe] == texts


def with_labels(labels):
    texts = [f"word{n} common" for n in range(len(labels))] * 8
    settings = {"train.epochs": 1, "train.threads": 1, "decide.rule": "half", "features.min_documents": 1}
    return MultiLabelClassifier(features="ngrams", settings=settings).fit(texts, [[label] for label in labels] * 8)


def test_labels_of_a_run(tmp_path):
    labels = [label for label in FORMULAS if label.strip() == label]
    classifier = with_labels([*labels, "plain"])
    classifier.save(tmp_path / "run")
    text = (tmp_path / "run" / "labels.csv").read_text(encoding="utf-8")
    cells = [row["label"] for row in csv.DictReader(StringIO(text, newline=""))]
    assert sorted(cells) == sorted([*(f"'{label}" for label in labels), "plain"])
    again = MultiLabelClassifier.load(tmp_path / "run")
    assert again.labels_ == classifier.labels_
    assert sorted(row["label"] for row in again.labels_) == sorted([*labels, "plain"])


@settings(deadline=None, max_examples=300)
@given(st.lists(st.text(alphabet="'=a", min_size=1, max_size=3), min_size=1, unique=True), st.booleans())
def test_labels_of_old_and_new_runs_are_told_apart(tmp_path_factory, labels, old):
    run = RunFolder(tmp_path_factory.mktemp("run"))
    table = pl.DataFrame({"label": labels, "f1": [0.5] * len(labels)})
    run.write_text("labels.csv", (table if old else safe_cells(table)).write_csv())
    assert [row["label"] for row in read_label_table(run, labels)] == labels


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    log = pl.DataFrame({"user": [f"={n}" for n in range(20) for _ in "abc"], "item": ["-x", "+y", "z"] * 20})
    log.write_csv(folder / "log.csv")
    Recommender(model="markov", history=1, next_items=1).fit(folder / "log.csv", out=folder / "run")
    return folder


@pytest.mark.parametrize("block", [(), ("--block", 5)])
@pytest.mark.parametrize("suffix", ["csv", "tsv", "csv.gz"])
def test_predictions(run, block, suffix, tmp_path):
    out = tmp_path / f"out.{suffix}"
    predict = ("recommend", "predict", run / "run", run / "log.csv", "--out", out, "--repeats", "--k", 3, *block)
    done(*predict)
    plain = pl.read_csv(out, separator="\t" if suffix == "tsv" else ",")
    assert plain["user"][0] == "=0"
    done(*predict, "--safe-csv")
    safe = pl.read_csv(out, separator="\t" if suffix == "tsv" else ",")
    assert safe["user"].to_list() == [f"'{user}" for user in plain["user"]]
    assert sorted(set(safe["item"])) == ["'+y", "'-x", "z"]
    assert safe.drop("user", "item").equals(plain.drop("user", "item"))


def test_another_format_has_no_cells(run, tmp_path):
    predict = ("recommend", "predict", run / "run", run / "log.csv", "--safe-csv", "--out", tmp_path / "out.jsonl")
    assert "--safe-csv is for cells of .csv and .tsv" in refused(*predict)
