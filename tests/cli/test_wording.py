"""Messages of commands: options that the command has, those of `fit` for others, also in what is logged."""

import logging

import pytest
from rich.console import Console, Group
from rich.text import Text

from command_cases import done, invoke, refused, rows, write
from hyperfocal.cli.main import verify
from hyperfocal.cli.recommend import fit
from hyperfocal.cli.wording import print_lines, print_report
from hyperfocal.data.logs import Log
from hyperfocal.recommend.recommender import Recommender

LOG = "buyer,sku,at,price\n" + "".join(f"u{row % 9},i{row % 5},{row},1\n" for row in range(45))
NAMED = ("--user", "buyer", "--item", "sku", "--order", "at")
FAST = ("--model", "markov", "--history", 2, "--next", 1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder with a log, one with other columns, and a run of each job."""
    folder = tmp_path_factory.mktemp("wording")
    (folder / "log.csv").write_text(LOG)
    (folder / "other.csv").write_text("a,b,c,d\n1,2,3,4\n")
    write(folder / "docs.jsonl", rows())
    write(folder / "bare.jsonl", [{"words": "the sport1"}])
    done("recommend", "fit", folder / "log.csv", "--out", folder / "run", *NAMED, *FAST)
    columns = ("--text", "title", "--id", "id", "--features", "ngrams", "--set", "train.epochs=1")
    done("classify", "fit", folder / "docs.jsonl", "--out", folder / "texts", *columns)
    return folder


def test_a_column_that_cannot_be_found(folder, tmp_path):
    asked = ("recommend", "fit", folder / "other.csv", "--out", tmp_path / "run")
    assert "cannot tell which column is the user. Name it with --user. Columns found: a, b, c, d" in refused(*asked)
    lists = Log.from_lists([["x", "y", "z"]] * 4)  # a run that names no columns
    Recommender(model="markov", history=2, next_items=1).fit(lists, out=tmp_path / "lists")
    for command in (("predict", "--out", tmp_path / "p.csv"), ("evaluate",), ("update",)):
        said = refused("recommend", command[0], tmp_path / "lists", folder / "other.csv", *command[1:])
        assert "Name it with `fit --user`. Columns found" in said
        said = refused("recommend", command[0], folder / "run", folder / "other.csv", *command[1:])
        assert "no column 'buyer'" in said
        assert "--" not in said


def test_a_column_of_documents_that_is_missing(folder, tmp_path):
    asked = ("classify", "fit", folder / "docs.jsonl", "--out", tmp_path / "run", "--labels", "tags")
    assert "no column 'tags' (--labels)" in refused(*asked)
    said = refused("classify", "predict", folder / "texts", folder / "bare.jsonl", "--out", tmp_path / "p.jsonl")
    assert "no column 'title'" in said
    assert "--" not in said


@pytest.mark.parametrize("block", [(), ("--block", 1)])
def test_an_id_that_is_repeated(folder, tmp_path, block):
    write(tmp_path / "twice.jsonl", rows(1) * 2)
    asked = ("classify", "predict", folder / "texts", tmp_path / "twice.jsonl", "--out", tmp_path / "p.jsonl")
    assert "or name another column with `fit --id`" in refused(*asked, *block)


def test_a_folder_that_is_taken(folder):
    """`fit` can continue and replace a run; `update` can do neither, and says neither."""
    said = refused("recommend", "fit", folder / "log.csv", "--out", folder / "run", *NAMED, *FAST)
    ways = "Choose another folder, continue it with --resume, or replace it with --overwrite"
    assert said.endswith(f"holds a run already. {ways}")
    said = refused("recommend", "update", folder / "run", folder / "log.csv", "--out", folder / "texts")
    assert said.endswith("holds a run already. Choose another folder")


def test_times_that_tie(folder, tmp_path):
    (tmp_path / "log.csv").write_text(LOG + "u0,i1,0,1\n")
    said = refused("recommend", "fit", tmp_path / "log.csv", "--out", tmp_path / "run", *NAMED, *FAST)
    assert "add --set data.order_kind=time: then" in said
    done(*("recommend", "fit", tmp_path / "log.csv", "--out", tmp_path / "run", *NAMED, *FAST), *TIME)
    said = refused("recommend", "evaluate", folder / "run", tmp_path / "log.csv")
    assert "add `fit --set data.order_kind=time`: then" in said


TIME = ("--set", "data.order_kind=time")


def test_files_that_need_another_file(folder, tmp_path):
    asked = ("recommend", "fit", folder / "log.csv", "--out", tmp_path / "run", *NAMED, *FAST)
    said = refused(*asked, "--valid-truth", folder / "log.csv")
    assert said == "error: --valid-truth says what follows the histories of --valid: give --valid too"
    said = refused(*asked, "--items", folder / "log.csv", "--item-features", "sku")
    assert "error: --set items.features=...: markov reads no features" in said
    said = refused("recommend", "update", folder / "run", folder / "log.csv", "--items", folder / "log.csv")
    assert said.startswith("error: --items: this run was fitted without a table of items. Leave it out")


def test_warnings_of_a_command_name_its_options(monkeypatch, tmp_path, caplog):
    def warn(path):
        logging.getLogger("hyperfocal").warning("%s: name it with `overwrite=True`, `labels=`", path)
        raise SystemExit

    monkeypatch.setattr(verify, "callback", lambda run: warn(run))
    invoke("verify", tmp_path)
    logging.getLogger("hyperfocal").warning("in Python `labels=`")
    named = f"{tmp_path}: name it with `fit --overwrite`, `fit --labels`"
    assert [record.getMessage() for record in caplog.records] == [named, "in Python `labels=`"]


def test_printed_lines_and_reports_name_options(capsys):
    """An option that the command lacks is one of `fit`."""
    report = Group(Text("ease is not in the table. Give `model='ease'` to fit it."), Text("`items=`", "bold"))
    for command, expected in (
        (fit, "to fit it. --items|Give --model ease to"),
        (verify, "`fit --model ease`|(`fit --group`)"),
    ):
        with command.make_context("any", [], resilient_parsing=True):
            print_report(Console(), report)
            print_lines(Console(), ["A group column (`group=`) can keep them together."])
        printed = " ".join(capsys.readouterr().out.split())
        assert all(each in printed for each in expected.split("|"))
        assert "=`" not in printed
